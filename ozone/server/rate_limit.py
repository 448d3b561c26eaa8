"""How many lines may be logged about what repeats."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """Says of each line whether to write it, and how many were left out before it."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._per_second, self._clock = burst, per_second, clock
        self._left = float(burst)
        self._last = clock()
        self._dropped = 0

    def take(self) -> int | None:
        """How many were left out since the last line; None where this one is left out too."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._last) * self._per_second)
        self._last = now
        if self._left < 1:
            self._dropped += 1
            return None
        self._left -= 1
        dropped, self._dropped = self._dropped, 0
        return dropped
