"""Server-sent events: one response whose events are written as the engine produces them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ozone.errors import RequestError
from ozone.server.context import INLINE_PARTS, ServerContext
from ozone.server.errors import error_body, error_response
from ozone.server.generation import Arrival, ClientDisconnectedError, Generation
from ozone.server.refusals import log_refusal
from ozone.server.request_log import OutputLog
from ozone.server.result_memory import num_parts

# Turns what has arrived into the JSON values of events; given None once, after the last arrival.
ToEvents = Callable[[list[Arrival] | None], Iterable[Any]]

_DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """Streams one generation and aborts it when the client leaves.

    The status is sent with the first event, so that what fails before it is a plain HTTP error; what
    fails later is an event of its own, followed by the usual end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        to_events: ToEvents,
        context: ServerContext,
        outputs: OutputLog | None = None,
    ) -> None:
        super().__init__()
        self._outputs = outputs
        self._generation = generation
        self._to_events = to_events
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._generation.watch(receive) as generation:
            started = False
            try:
                async for chunk in self._chunks(generation.batches()):
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                        started = True
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": _DONE, "more_body": False})
            except RequestError as error:
                if not started:
                    await error_response(error)(scope, receive, send)
                else:
                    log_refusal(scope, error)
                    body = _event(error_body(error)) + _DONE
                    await send({"type": "http.response.body", "body": body, "more_body": False})
            except (ClientDisconnectedError, OSError):
                return  # Nobody reads any more; leaving the context aborts the request.

    async def _chunks(self, batches: AsyncIterator[list[Arrival]]) -> AsyncIterator[bytes]:
        async for arrivals in batches:
            if self._outputs is not None:
                self._outputs.add(arrivals)
            for size, some in _groups(arrivals):
                if chunk := await self._context.write(size, functools.partial(self._written, some)):
                    yield chunk
        if chunk := self._written(None):
            yield chunk

    def _written(self, arrivals: list[Arrival] | None) -> bytes:
        return b"".join(map(_event, self._to_events(arrivals)))


def _groups(arrivals: list[Arrival]) -> Iterator[tuple[int, list[Arrival]]]:
    """Arrivals that are written together, with their parts: few at once where they are long."""
    group: list[Arrival] = []
    size = 0
    for arrival in arrivals:
        parts = num_parts(arrival.delta)
        if group and size + parts > INLINE_PARTS:
            yield size, group
            group, size = [], 0
        group.append(arrival)
        size += parts
    yield size, group


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
