"""Running an app under uvicorn: binding, saying where, and draining when a signal asks to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import cast

import uvicorn

from ozone.server.app import create_app
from ozone.server.connections import (
    Connection,
    Connections,
    ErrorOnce,
    accept_batch,
    places,
    raise_file_limit,
)
from ozone.server.flags import ServerSettings
from ozone.server.listener import BACKLOG, bind, remove_path, server_url
from ozone.server.state import ServerState
from ozone.server.tls import check_tls, refresh_tls

logger = logging.getLogger(__name__)

# Once the engine is done, clients get this long to read the ends of their answers.
_FLUSH_SECONDS = 5
# Longer than clients keep idle connections: a server that closes first breaks their next request.
_KEEP_ALIVE_SECONDS = 75


def run_server(state: ServerState, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT; return when running requests have ended or had their time.

    `listener`: what `bind` returned; None binds now. Raises ConfigError where the port is not to be had.
    """
    listener = listener or bind(state.settings)
    raise_file_limit()
    server = DrainingServer(state, listener)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        remove_path(state.settings)
        state.engine.shutdown()


class DrainingServer(uvicorn.Server):
    """Keeps answering while it drains: new work is refused with 503, running work goes on.

    A first signal drains, a second one ends the process at once.
    """

    def __init__(self, state: ServerState, listener: socket.socket) -> None:
        settings = state.settings
        self._connections = Connections(places())
        protocol = functools.partial(Connection, connections=self._connections)
        super().__init__(
            uvicorn.Config(
                create_app(state),
                log_level=settings.uvicorn_log_level,
                log_config=None,  # loggers are set up by the program
                access_log=settings.access_log,
                ssl_keyfile=settings.ssl_keyfile,
                ssl_certfile=settings.ssl_certfile,
                ssl_ca_certs=settings.ssl_ca_certs,
                ssl_cert_reqs=settings.ssl_cert_reqs,
                ssl_ciphers=settings.ssl_ciphers or "TLSv1",
                lifespan="on",
                ws="none",
                timeout_graceful_shutdown=_FLUSH_SECONDS,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                server_header=False,
                http=cast("type[asyncio.Protocol]", protocol),
                backlog=accept_batch(self._connections.most),
            )
        )
        self._state = state
        self._load(settings)
        self._url = server_url(settings, listener)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refresh: asyncio.Task[None] | None = None

    def _load(self, settings: ServerSettings) -> None:
        """Read the certificates now. Raises ConfigError for what is none."""
        check_tls(settings)
        self.config.load()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(ErrorOnce())
        await super().startup(sockets)
        if self._state.settings.ssl_refresh:
            self._refresh = self._loop.create_task(refresh_tls(self.config.ssl, self._state.settings))
        for listener in sockets or ():
            # How many wait in the kernel. What uvicorn was told is how many are accepted in a row, too.
            listener.listen(BACKLOG)
        logger.info("Serving %s at %s/v1", self._state.model_names[0], self._url)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Unlike uvicorn's own, this does not raise the signal again afterwards: a drained exit is 0.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._state.draining or self._loop is None:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
            return
        self._state.draining = True
        self._loop.call_soon_threadsafe(self.drain)  # a signal handler must not take locks

    def drain(self) -> None:
        """Stop taking requests, and exit when those that run have ended. May be called in any thread."""
        self._state.draining = True
        threading.Thread(target=self._drain, name="ozone-drain", daemon=True).start()

    def _drain(self) -> None:
        try:
            stats = self._state.engine.stats()
            running = stats.num_running + stats.num_waiting
            timeout = self._state.settings.shutdown_timeout
            if running:
                line = "Shutting down: %d requests may go on for %g s; signal again to end at once"
                logger.info(line, running, timeout)
            if not self._state.engine.drain(timeout):
                self._state.engine.shutdown()  # ends what is left with "abort", which its clients are told
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._connections.end_receiving)
            self.should_exit = True
