"""Why requests were refused, one log line each, and only so many of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import Scope

from ozone.errors import RequestError, escaped
from ozone.server.paths import OPEN_PATHS, route_path
from ozone.server.request_ids import known_name

logger = logging.getLogger(__name__)

# Some lines at once, then a few a second: a client that only errs does not fill a disk.
_BURST = 20
_LINES_PER_SECOND = 2.0
_LONGEST_REASON = 500
_LONGEST_PATH = 100


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


_limit = RateLimit(_BURST, _LINES_PER_SECOND)


def log_refusal(scope: Scope, error: RequestError) -> None:
    """One line for a request that gets an error for an answer."""
    if route_path(scope) in OPEN_PATHS:  # asked once a second by probes, which know why
        return
    dropped = _limit.take()
    if dropped is None:
        return
    if dropped:
        logger.info("%d more requests were refused", dropped)
    client = scope.get("client") or ("unknown",)
    name = known_name(scope)
    where = f"{scope['method']} {escaped(scope['path'], _LONGEST_PATH)}"
    who = f"from {escaped(str(client[0]), _LONGEST_PATH)}" + (f", request {name}" if name else "")
    logger.info("%d for %s %s: %s", error.status, where, who, escaped(str(error), _LONGEST_REASON))
