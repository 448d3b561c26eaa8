"""Long loops on the event loop that let others have their turn."""

from __future__ import annotations

import asyncio
import time

# /health and other streams wait at most about this long for one request's work on the loop.
_TURN_SECONDS = 0.005


class Pace:
    """A loop that awaits `give_way` after each pass holds up the event loop for milliseconds only."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _TURN_SECONDS

    async def give_way(self) -> None:
        """Let the event loop do other work, if this work has had its time."""
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + _TURN_SECONDS
