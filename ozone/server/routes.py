"""Every path of the server, with what the schema says of it; the two generations live in their own files."""

from __future__ import annotations

import html
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from ozone.errors import RequestError
from ozone.server import responses
from ozone.server.answers import VERSION, json_response
from ozone.server.body import as_model, parse_body, read_json
from ozone.server.chat import create_chat_completion
from ozone.server.completions import create_completion
from ozone.server.context import ServerContext
from ozone.server.errors import ModelNotFoundError
from ozone.server.prompts import encode_conversation, encode_text
from ozone.server.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)

REQUEST_MODELS: tuple[type[BaseModel], ...] = (
    CompletionRequest,
    ChatCompletionRequest,
    TokenizeTextRequest,
    TokenizeChatRequest,
    DetokenizeRequest,
)

Endpoint = Callable[[ServerContext, Request], Awaitable[Response]]

_PAGE = """<!doctype html><meta charset="utf-8"><title>Ozone</title>
<h1>Ozone {version}</h1><p>Serving <b>{model}</b>.</p>
<ul><li><a href="docs">API</a> (<a href="openapi.json">schema</a>)
<li><a href="v1/models">models</a>, <a href="metrics">metrics</a>, <a href="startup">start-up</a>,
<a href="health">health</a></ul>
"""


def add_routes(app: FastAPI, context: ServerContext) -> None:
    """Give `app` every path."""
    stream = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    created = int(time.time())

    def post(
        path: str, endpoint: Endpoint, answer: type[BaseModel], *bodies: type[BaseModel], extra: Any = None
    ) -> None:
        async def handler(request: Request) -> Response:
            return await endpoint(context, request)

        refs = [{"$ref": f"#/components/schemas/{body.__name__}"} for body in bodies]
        schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            name=endpoint.__name__,
            response_model=answer,
            responses={**_errors(400, 401, 404, 413, 415, 429, 500, 503), **(extra or {})},
            openapi_extra={
                "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
            },
        )

    post("/v1/completions", create_completion, responses.CompletionAnswer, CompletionRequest, extra=stream)
    post(
        "/v1/chat/completions",
        create_chat_completion,
        responses.ChatCompletionAnswer,
        ChatCompletionRequest,
        extra=stream,
    )
    post("/tokenize", tokenize, responses.TokenizeAnswer, TokenizeTextRequest, TokenizeChatRequest)
    post("/detokenize", detokenize, responses.DetokenizeAnswer, DetokenizeRequest)

    def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "ozone",
            "root": context.model_name,
            "max_model_len": context.state.max_model_len,
        }

    @app.get("/v1/models", response_model=responses.ModelList, responses=_errors(401))
    async def list_models() -> Response:
        return json_response({"object": "list", "data": [card(name) for name in context.state.model_names]})

    @app.get("/v1/models/{model:path}", response_model=responses.ModelCard, responses=_errors(401, 404))
    async def retrieve_model(model: str) -> Response:
        if model not in context.state.model_names:
            raise ModelNotFoundError(model, context.state.model_names)
        return json_response(card(model))

    @app.get("/health", responses=_errors(503), response_class=Response)
    async def health() -> Response:
        context.check_ready()
        return Response()

    @app.get("/version", response_model=responses.VersionAnswer, responses=_errors(401))
    async def version() -> Response:
        return json_response({"version": VERSION})

    @app.get("/metrics", response_class=Response, responses={**text, **_errors(401)})
    async def metrics() -> Response:
        return Response(context.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    @app.get("/startup", response_model=dict[str, Any], responses=_errors(401))
    async def startup() -> Response:
        return json_response(context.state.startup_report())

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(_PAGE.format(version=VERSION, model=html.escape(context.model_name)))


async def tokenize(context: ServerContext, request: Request) -> Response:
    """Token ids of a text or of a rendered conversation."""
    value = await read_json(request, context.state.settings.max_request_bytes)
    body: TokenizeTextRequest | TokenizeChatRequest
    if "messages" in value:
        body = as_model(value, TokenizeChatRequest)
        context.check_model(body.model)
        body.refuse_unsupported()
        tokens = await encode_conversation(context, body)
    else:
        body = as_model(value, TokenizeTextRequest)
        context.check_model(body.model)
        tokens = await encode_text(context, body.prompt, body.add_special_tokens)
    tokenizer = context.state.tokenizer
    texts = [tokenizer.token_text(token) for token in tokens] if body.return_token_strs else None
    return json_response(
        {
            "count": len(tokens),
            "max_model_len": context.state.max_model_len,
            "tokens": tokens,
            "token_strs": texts,
        }
    )


async def detokenize(context: ServerContext, request: Request) -> Response:
    """The text of token ids, special tokens included."""
    body = await parse_body(request, DetokenizeRequest, context.state.settings.max_request_bytes)
    context.check_model(body.model)
    vocab_size = context.state.tokenizer.vocab_size
    wrong = next((token for token in body.tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise RequestError(f"tokens: {wrong} is not a token id, 0 to {vocab_size - 1}", param="tokens")
    tokens = body.tokens
    text = await context.call(len(tokens), lambda: context.state.tokenizer.decode(tokens, False))
    return json_response({"prompt": text})


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": responses.ErrorAnswer} for status in statuses}
