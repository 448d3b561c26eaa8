"""Which names a server answers to, and for the pages of which origins it acts.

A page of a foreign site can have its own name resolve to this machine (DNS rebinding): its requests are then
of the same origin to the browser, but they still carry that name as Host. Names that no foreign site can have
pass.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ozone.errors import RequestError
from ozone.server.errors import error_response
from ozone.server.flags import ServerSettings
from ozone.server.paths import OPEN_PATHS, route_path

# Nobody can register names that end so: they belong to this network, or to Kubernetes.
_PRIVATE_ENDINGS = (".local", ".internal", ".home.arpa", ".svc")
# An address in brackets, or a name or IPv4 address; then perhaps a port.
_HOST = re.compile(r"(?:\[([0-9a-z:.%_-]+)\]|([0-9a-z._-]*))(?::\d*)?")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_SHOWN = 100


def checks_hosts(settings: ServerSettings) -> bool:
    """Whether to look at names at all: a foreign page does not know a key, so a key is enough."""
    if settings.uds is not None:  # which no browser reaches
        return False
    return "*" not in settings.allowed_hosts and bool(settings.allowed_hosts or not settings.api_keys)


class HostRules:
    """Says which names are this server's, from what it is bound to and what the user allows."""

    def __init__(self, settings: ServerSettings) -> None:
        self._origins = settings.allowed_origins
        self._allowed = {name.lower() for name in settings.allowed_hosts}
        self._allowed |= {settings.host.lower(), socket.gethostname().lower()}
        self._is_local = settings.host == "localhost" or _is_loopback(settings.host)

    def takes_host(self, header: str) -> bool:
        """Whether a Host header names this server. An address does: no foreign site has one as its name."""
        name = _host_name(header)
        if name is None:
            return False
        if not name or self._is_ours(name) or _address(name) is not None:
            return True
        return not self._is_local and ("." not in name or name.endswith(_PRIVATE_ENDINGS))

    def takes_origin(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may have the server do something."""
        if origin in self._origins or "*" in self._origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        return bool(name) and (parts.netloc.lower() == host.strip().lower() or self._is_ours(name))

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or _is_loopback(name):
            return True
        parents = (f"*{name[at:]}" for at, letter in enumerate(name) if letter == ".")
        return name in self._allowed or any(parent in self._allowed for parent in parents)


class HostMiddleware:
    """Answers 403 to requests under foreign names, and to foreign pages; `/health` and `/ping` excepted."""

    def __init__(self, app: ASGIApp, *, rules: HostRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http" and route_path(scope) not in OPEN_PATHS:
            refusal = self._refusal(Headers(scope=scope), scope["method"])
        app = self._app if refusal is None else error_response(refusal)
        await app(scope, receive, send)

    def _refusal(self, headers: Headers, method: str) -> RequestError | None:
        hosts: Sequence[str] = headers.getlist("host")
        for host in hosts:
            if not self._rules.takes_host(host):
                name = (_host_name(host) or host)[:_LONGEST_SHOWN]
                return RequestError(
                    f"This server does not go by the name {name!r}: start it with --allowed-hosts {name} "
                    "if it should",
                    status=403,
                )
        origin = headers.get("origin")
        host = hosts[0] if hosts else ""
        if origin is None or method in _SAFE_METHODS or self._rules.takes_origin(origin, host):
            return None
        shown = origin[:_LONGEST_SHOWN]
        return RequestError(
            f"Pages of {shown!r} may not use this server: start it with --allowed-origins if they should, "
            "or with --allowed-hosts if that is its own name",
            status=403,
        )


def _host_name(header: str) -> str | None:
    """The name or address in a Host header, in lower case, without its port; None where it is neither."""
    match = _HOST.fullmatch(header.strip().lower())
    return None if match is None else match[1] or match[2].removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_loopback
