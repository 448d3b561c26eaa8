"""API keys: every path but `/health` and `/ping` wants one of them as a Bearer token, if any are set."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ozone.errors import RequestError
from ozone.server.errors import error_response
from ozone.server.paths import OPEN_PATHS, route_path


class ApiKeyMiddleware:
    """Answers 401 to a request without a right key. Comparison takes the same time whatever is wrong."""

    def __init__(self, app: ASGIApp, *, api_keys: tuple[str, ...]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and route_path(scope) not in OPEN_PATHS
            and not self._knows(Headers(scope=scope))
        ):
            error = RequestError(
                "Missing or wrong API key: send it as 'Authorization: Bearer KEY'", status=401
            )
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = _digest(token.strip().encode("latin-1", "replace"))
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
