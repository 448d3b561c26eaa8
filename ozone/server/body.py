"""Reading a request's body: bounded in size and depth, strict JSON, and checked against its model.

A long body is parsed in a worker thread, so that other requests go on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from ozone.errors import RequestError
from ozone.server.receive_buffer import BufferPart
from ozone.server.requests import RequestBody

if TYPE_CHECKING:
    from ozone.server.context import ServerContext

MAX_DEPTH = 64
# What a list or an object costs to parse and to hold is many times its two bytes.
MAX_BRACKETS = 1 << 18
_LINGER_SECONDS = 2.0

Body = TypeVar("Body", bound=RequestBody)


async def parse_body(context: ServerContext, request: Request, model: type[Body]) -> Body:
    """The request's JSON body as `model`. Raises RequestError (400, 413, 415) in one readable line."""
    return await parse_body_as(context, request, lambda _: model)


async def parse_body_as(
    context: ServerContext, request: Request, choose: Callable[[dict[str, Any]], type[Body]]
) -> Body:
    """The request's JSON body as the model that `choose` names for it. Raises as `parse_body`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        # Also what keeps web pages of other origins out: without CORS they cannot send this type.
        raise RequestError("The Content-Type must be application/json", status=415)
    with context.receive_buffer.part() as part:
        data = await _read(request, context.state.settings.max_request_bytes, part)
        return await context.call(len(data), lambda: _parse(data, choose))


def _parse(data: bytes, choose: Callable[[dict[str, Any]], type[Body]]) -> Body:
    if (brackets := data.count(b"[") + data.count(b"{")) > MAX_BRACKETS:
        raise RequestError(f"The body has {brackets} opening brackets; at most {MAX_BRACKETS} are read")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError("The body must be a JSON object")
    _check_depth(value)
    try:
        body = choose(value).model_validate(value)
    except ValidationError as error:
        raise _readable(error) from None
    body.set_num_bytes(len(data))
    body.note_ignored()
    return body


async def _read(request: Request, max_bytes: int, part: BufferPart) -> bytes:
    too_large = RequestError(f"The body is larger than {max_bytes} bytes (--max-request-bytes)", status=413)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        if "expect" not in request.headers:  # A client that asks first reads the answer first.
            await _linger(request, max_bytes)
        raise too_large
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        chunk, more = await _receive(request)
        size += len(chunk)
        if size > max_bytes:
            chunks.clear()
            if more:
                await _linger(request, max_bytes)
            raise too_large
        part.add(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def _receive(request: Request) -> tuple[bytes, bool]:
    """The next piece of the body, and whether there are more."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _linger(request: Request, max_bytes: int) -> None:
    """Swallow some more of a body that is too large: many clients read the answer only after sending."""
    swallowed, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while more and swallowed < max_bytes:
                chunk, more = await _receive(request)
                swallowed += len(chunk)


def _check_depth(value: Any) -> None:
    """Refuse nesting that could exhaust the stack of whoever walks the value later."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            deeper += [child for child in children if type(child) is dict or type(child) is list]
        if not deeper:
            return
        level = deeper
    raise RequestError(f"The body nests deeper than {MAX_DEPTH} levels")


def _readable(error: ValidationError) -> RequestError:
    """The first complaint of pydantic in one line, with the path of the field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "the field is required"
    param = str(first["loc"][0]) if first["loc"] else None
    return RequestError(f"{path}: {message}" if path else message, param=param)
