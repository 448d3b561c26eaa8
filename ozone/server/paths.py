"""From the path that a client sends to the one that is served: the root path of a proxy, HEAD, near paths.

`route_path` is the one reading of a path: routes and access checks must not differ in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette._utils import get_route_path
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ozone.config.upstream import nearest

# These answer whoever asks: load balancers and container platforms send no key.
OPEN_PATHS = frozenset({"/health", "/ping"})
_LONGEST_SHOWN = 200


def route_path(scope: Scope) -> str:
    """The path as routes see it: percent-decoded once, and without the root path."""
    return get_route_path(scope)


class RequestLineMiddleware:
    """Makes of a request what the routes know: GET of HEAD, and a path below `root_path`.

    A proxy in front may have cut the root path off or not. A path that is served as it stands had it cut off.
    """

    def __init__(self, app: ASGIApp, *, root_path: str, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._root_path = root_path
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._root_path:
                scope = self._below_root(scope)
            if scope["method"] == "HEAD":
                scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self._app(scope, receive, send)

    def _below_root(self, scope: Scope) -> Scope:
        path, root = scope["path"], self._root_path
        as_it_stands = {**scope, "root_path": root, "path": root + path}
        if path != root and not path.startswith(root + "/"):
            return as_it_stands
        if any(route.matches(as_it_stands)[0] is not Match.NONE for route in self._routes):
            return as_it_stands
        return {**scope, "root_path": root}


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


def allowed_methods(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """The methods that a path answers, over all its routes."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def nothing_there(routes: Sequence[BaseRoute], path: str) -> str:
    """What to say of a path that is not served, with the nearest one that is."""
    served = [route.path for route in routes if isinstance(route, Route)]
    served = [name for name in served if name != "/" and "{" not in name]
    shown = path if len(path) <= _LONGEST_SHOWN else path[:_LONGEST_SHOWN] + "..."
    return f"Nothing is served at {shown}{nearest(path[:_LONGEST_SHOWN], served)}"
