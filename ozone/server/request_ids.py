"""How requests are named: by the header ``X-Request-Id``, by the field ``request_id``, or at random."""

from __future__ import annotations

import re
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
# Long enough for a UUID or a trace id with what proxies put around it.
_MOST_CHARACTERS = 128
# Safe in a header, in JSON and on a terminal, and never the "#" that sets the engine's own number off.
_OTHERS = re.compile(r"[^A-Za-z0-9._:~+/=@-]")
_STATE_KEY = "request_id"


def clean_id(given: str) -> str:
    """A client's name for a request, cut to 128 characters, with ``_`` for what is not safe everywhere."""
    return _OTHERS.sub("_", given[:_MOST_CHARACTERS])


def name_request(scope: Scope, field: str | None = None) -> str:
    """The name of a request: its header's, else its field's, else a random one; remembered in `scope`."""
    given = Headers(scope=scope).get(HEADER) or field
    name = clean_id(given) if given else uuid.uuid4().hex
    _state(scope)[_STATE_KEY] = name
    return name


def known_name(scope: Scope) -> str | None:
    """The name that the client gave, or that the request got since; None while it has none."""
    given = Headers(scope=scope).get(HEADER)
    name: str | None = _state(scope).get(_STATE_KEY)
    return name or (clean_id(given) if given else None)


def _state(scope: Scope) -> dict[str, Any]:
    state: dict[str, Any] = scope.setdefault("state", {})
    return state


class RequestIdHeaderMiddleware:
    """Adds ``X-Request-Id`` to every answer: what the request is called, or a random name (as vLLM)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                name = known_name(scope) or uuid.uuid4().hex
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        await self._app(scope, receive, send_named)
