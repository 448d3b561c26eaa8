"""The server's socket and address. Imports no web framework, so that a port in use is known at once."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from ozone.errors import ConfigError
from ozone.server.flags import ServerSettings

# Connections that the system holds until they are accepted.
BACKLOG = 2048


def bind(settings: ServerSettings) -> socket.socket:
    """Take the port, so that a port in use is known before a model is loaded. Raises ConfigError."""
    if settings.uds is not None:
        return _bind_path(settings.uds)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends small pieces at once (TCP_NODELAY) only where it sees that the protocol is TCP. Else the
    # first event of a stream waits 40 ms for the client to acknowledge the head of the answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    where = f"{settings.host}:{settings.port}"
    return _listening(listener, (settings.host, settings.port), where)


def _bind_path(path: str) -> socket.socket:
    """Take a Unix domain socket; a file that a server left behind, on which nobody listens, is replaced."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(f"cannot listen on --uds {path}: {error.strerror or error}") from None
    return _listening(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path, f"--uds {path}")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        return client.connect_ex(path) == 0


def _listening(listener: socket.socket, address: tuple[str, int] | str, where: str) -> socket.socket:
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {where}: {reason}") from None
    return listener


def remove_path(settings: ServerSettings) -> None:
    """Remove the file of a Unix domain socket, once nobody listens there any more."""
    if settings.uds is not None:
        with contextlib.suppress(OSError):
            os.unlink(settings.uds)


def server_url(settings: ServerSettings, listener: socket.socket) -> str:
    """Where clients on this machine reach the server."""
    scheme = "https" if settings.ssl_certfile else "http"
    if settings.uds is not None:
        return f"{scheme}+unix:{settings.uds}{settings.root_path}"
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{host}:{port}{settings.root_path}"
