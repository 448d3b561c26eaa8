"""Connections of clients: how many there may be, and how long each may take to send a request.

A client that connects when all places are taken gets the place of one that sends nothing: of an idle
connection, else of the one that has been sending its request for the longest time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Iterator
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from ozone.errors import RequestError
from ozone.server.errors import error_body

logger = logging.getLogger(__name__)

# A request's head has this long to arrive, from the first byte or the connection on.
HEAD_SECONDS = 30.0
# A body has as long again, and a second more for each so many bytes that it declares.
SLOWEST_BODY_BYTES = 32 << 10
_LONGEST_BODY_BYTES = 64 << 20
# A client that reads nothing of its answer for this long is gone.
WRITE_SECONDS = 120.0
# A new connection keeps its place for this long, and for longer once its request has begun to arrive.
_GRACE_SECONDS = 0.5
_SENDING_GRACE_SECONDS = 2.0
# A refused client may send its request for so long, and then read why. So many do at once, since each
# costs a place.
_LINGER_SECONDS = 1.0
_MAX_LINGERING = 32
# Connections that are accepted in a row before any of them is looked at.
ACCEPT_BATCH = 64
# Files that the process may open for itself while it serves.
_OWN_FILES = 32
_MOST_FILES = 1 << 16


def raise_file_limit() -> None:
    """Let this process open as many files as the system lets it, at most 65,536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def places() -> int:
    """How many connections fit under the limit of open files, beside what is open and may yet be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = 64
    spare = limit - used - _OWN_FILES - _MAX_LINGERING - accept_batch(limit)
    return max(spare, 4)


def accept_batch(limit: int) -> int:
    """Connections to accept in a row where that many files may be open."""
    return min(ACCEPT_BATCH, max(4, limit // 16))


class Connections:
    """Those of one server, in the order in which they came. Used in the event loop only."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: dict[Connection, None] = {}
        self._num_lingering = 0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Give a new connection a place, if need be somebody else's. False where none is to be had."""
        if len(self._open) >= self.most:
            victim = next(self._dispensable(), None)
            if victim is None:
                return False
            self._open.pop(victim)
            victim.make_room()
        self._open[connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    def may_linger(self) -> bool:
        """Whether one more refused client may have time to read why; `end_lingering` when it had."""
        if self._num_lingering >= _MAX_LINGERING:
            return False
        self._num_lingering += 1
        return True

    def end_lingering(self) -> None:
        self._num_lingering -= 1

    def end_receiving(self) -> None:
        """End those whose request is not there yet: the server shuts down."""
        for connection in list(self._open):
            if connection.is_sending_body:
                connection.expire(RequestError("The server is shutting down", status=503))

    def _dispensable(self) -> Iterator[Connection]:
        """Those whose place somebody else may have, the least missed first."""
        now = asyncio.get_running_loop().time()
        waited = {c: now - c.receiving_since for c in self._open if c.receiving_since is not None}
        by_age = sorted(waited, key=lambda connection: -waited[connection])
        yield from (c for c in by_age if c.is_idle and c.has_been_answered)
        yield from (c for c in by_age if c.is_idle and waited[c] > _GRACE_SECONDS)
        yield from (c for c in by_age if waited[c] > _SENDING_GRACE_SECONDS)


class Connection(H11Protocol):
    """HTTP/1.1 on one connection, within deadlines.

    Attributes:
        receiving_since: since when a request is awaited or arriving, in seconds of the loop's clock; None
            while one is answered.
        has_been_answered: it has sent a request before.
    """

    def __init__(self, *, connections: Connections, **how: Any) -> None:
        super().__init__(**how)
        self._all = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._refused = False
        self._lingers = False
        self._has_sent = False
        self.receiving_since: float | None = None
        self.has_been_answered = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has arrived, and nothing is being answered."""
        return self.receiving_since is not None and not self._has_sent

    @property
    def is_sending_body(self) -> bool:
        """Whether a request's head is there and its body is not."""
        return self.cycle is not None and not self.cycle.response_complete and self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._all.admit(self):
            self._refuse()
            return
        self._await_request(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        self._cancel_deadline()
        if self._lingers:
            self._all.end_lingering()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self.transport.close()  # it has sent its request and will read the answer
            return
        if self.transport.is_closing():
            return
        if self.receiving_since is not None and not self._has_sent:
            self._has_sent = True
            if self._deadline is None:  # the first bytes on a connection that was kept alive
                self._await_request(HEAD_SECONDS, has_sent=True)
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._head_arrived()
        elif self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._cancel_deadline()
        self._has_sent = False
        self.has_been_answered = True
        self.receiving_since = self.loop.time()
        before = self.cycle
        super().on_response_complete()
        if self.cycle is not before:  # the next request was here already
            self._head_arrived()

    def pause_writing(self) -> None:
        self._unread = self.loop.call_later(WRITE_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def make_room(self) -> None:
        """Close for somebody else's sake."""
        if self.is_idle:
            self.timeout_keep_alive_handler()
        else:
            self.expire(RequestError("The request did not arrive in time", status=408))

    def expire(self, error: RequestError) -> None:
        """End a request that has not arrived: say why, unless an answer has begun, and close."""
        if self.transport.is_closing():
            return
        begun = self.cycle is not None and not self.cycle.response_complete
        if begun:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._has_sent and not (begun and self.cycle.response_started):
            self.transport.write(_answer(error))
        self.transport.close()

    def _await_request(self, seconds: float, *, has_sent: bool = False) -> None:
        self._cancel_deadline()
        self._has_sent = has_sent
        self.receiving_since = self.loop.time()
        self._deadline = self.loop.call_later(seconds, self._too_slow, seconds)

    def _head_arrived(self) -> None:
        """A request has begun to be answered; its body may still be on its way."""
        if self.cycle.response_complete:
            return
        if not self.cycle.more_body:
            self._stop_waiting()
            return
        declared = next((value for name, value in self.headers if name == b"content-length"), b"0")
        seconds = HEAD_SECONDS + min(int(declared), _LONGEST_BODY_BYTES) / SLOWEST_BODY_BYTES
        self._await_request(seconds, has_sent=True)

    def _stop_waiting(self) -> None:
        self._cancel_deadline()
        self.receiving_since = None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self, seconds: float) -> None:
        what = f"The request did not arrive within {seconds:.0f} s"
        self.expire(RequestError(what, status=408))

    def _refuse(self) -> None:
        """Tell a client that there is no place, without waiting for its request."""
        self._refused = True
        error = RequestError(f"{self._all.most} connections are open: try again later", status=503)
        self.transport.write(_answer(error, (b"retry-after", b"1")))
        self._lingers = self._all.may_linger()
        if not self._lingers:
            self.transport.close()
            return
        # A socket that is closed with something unread takes the answer back.
        self._deadline = self.loop.call_later(_LINGER_SECONDS, self.transport.close)


def _answer(error: RequestError, *headers: tuple[bytes, bytes]) -> bytes:
    """A whole response outside of any request."""
    body = orjson.dumps(error_body(error))
    connection = h11.Connection(h11.SERVER)
    head = h11.Response(
        status_code=error.status,
        headers=[
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *headers,
        ],
    )
    return connection.send(head) + (connection.send(h11.Data(data=body)) or b"")


class ErrorOnce:
    """Logs what goes wrong in the event loop: a repeated message once a minute, with its count."""

    _MINUTE = 60.0
    _MOST = 100  # messages that are remembered

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        what = f"{context.get('message', 'error')}: {error!r}" if error else str(context.get("message"))
        since, count = self._seen.get(what, (-self._MINUTE, 0))
        if loop.time() - since < self._MINUTE:
            self._seen[what] = since, count + 1
            return
        if len(self._seen) >= self._MOST:
            self._seen.clear()
        self._seen[what] = loop.time(), 0
        suffix = f" ({count} more times before)" if count else ""
        # Without a place for a file there is nothing to trace; other errors are bugs.
        trace = None if isinstance(error, OSError) else error
        logger.error("%s%s", what, suffix, exc_info=trace)
