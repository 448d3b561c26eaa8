"""The server's socket and address. Imports no web framework, so that a port in use is known at once."""

from __future__ import annotations

import socket

from ozone.errors import ConfigError
from ozone.server.flags import ServerSettings

# Connections that the system holds until they are accepted.
BACKLOG = 2048


def bind(settings: ServerSettings) -> socket.socket:
    """Take the port, so that a port in use is known before a model is loaded. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {reason}") from None
    return listener


def server_url(settings: ServerSettings, listener: socket.socket) -> str:
    """Where clients on this machine reach the server."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{port}{settings.root_path}"
