"""Work on the event loop in short turns, so that what is quick never waits for what is much.

A loop gives way between passes; requests that arrive together begin one after another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

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


class TurnMiddleware:
    """Lets requests that bring work (those with a body) begin one in each pass of the event loop.

    The loop runs all that is ready before it looks for more: 1,500 requests that begin in one pass would
    hold up /health, and all streams, for seconds.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._had_turn = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            await self._turn()
        await self._app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._had_turn:
            self._had_turn = True
            loop.call_soon(self._next)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """Once in each pass: wake the request that has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its task was cancelled
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._had_turn = False
