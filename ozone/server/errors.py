"""Errors as OpenAI's API writes them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ozone.errors import OzoneError, RequestError, clipped, escaped
from ozone.server.generation import ClientDisconnectedError
from ozone.server.paths import allowed_methods, nothing_there, route_path
from ozone.server.refusals import log_refusal

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# Of a message. What a request holds may be quoted in it, and be of any length.
_MOST_CHARACTERS = 1000
_CODES = {401: "invalid_api_key", 429: "queue_full", 413: "request_too_large", 503: "unavailable"}


class ModelNotFoundError(RequestError):
    """The request names a model that is not served here."""

    def __init__(self, name: str, served: tuple[str, ...]) -> None:
        quoted = clipped(escaped(name, 100), 100)
        super().__init__(
            f"The model '{quoted}' does not exist here; served: {', '.join(served)}",
            param="model",
            status=404,
        )


def error_body(error: RequestError) -> dict[str, Any]:
    """The JSON value that tells of an error."""
    default_type = "server_error" if error.status >= 500 else "invalid_request_error"
    code = "model_not_found" if isinstance(error, ModelNotFoundError) else _CODES.get(error.status)
    kind = _TYPES.get(error.status, default_type)
    message = escaped(str(error), _MOST_CHARACTERS)
    param = None if error.param is None else escaped(error.param, _MOST_CHARACTERS)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ErrorResponse(Response):
    """An error as a whole HTTP response; the log gets its reason when it is sent."""

    media_type = "application/json"

    def __init__(self, error: RequestError, headers: Mapping[str, str]) -> None:
        super().__init__(orjson.dumps(error_body(error)), error.status, headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        log_refusal(scope, self._error)
        await super().__call__(scope, receive, send)


def error_response(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a response, with the headers that belong to its status."""
    headers = dict(headers or {})
    if error.status == 429:
        headers["Retry-After"] = "1"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return ErrorResponse(error, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Have every error of `app`, whoever raises it, written in this style."""

    async def ozone_error(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestError):
            error = RequestError(str(error))
        return error_response(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers, message = dict(error.headers or {}), str(error.detail)
        path = route_path(request.scope)
        if error.status_code == 404:
            message = nothing_there(app.routes, path)
        elif error.status_code == 405:
            headers["Allow"] = ", ".join(allowed_methods(app.routes, request.scope))
            message = f"{path} does not answer {request.method}, only {headers['Allow']}"
        return error_response(RequestError(message, status=error.status_code), headers)

    async def nobody_there(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)

    async def bug(_request: Request, _error: Exception) -> Response:
        return error_response(RequestError("Internal error; the server's log has its traceback", status=500))

    app.add_exception_handler(OzoneError, ozone_error)
    app.add_exception_handler(ClientDisconnect, nobody_there)
    app.add_exception_handler(ClientDisconnectedError, nobody_there)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, bug)
