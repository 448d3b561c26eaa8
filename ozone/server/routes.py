"""The paths of the API, with what the schema says of them; the two generations live in their own files."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response

from ozone.errors import RequestError
from ozone.server import responses
from ozone.server.answers import json_response
from ozone.server.body import parse_body, parse_body_as
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
from ozone.server.responses import errors

REQUEST_MODELS: tuple[type[BaseModel], ...] = (
    CompletionRequest,
    ChatCompletionRequest,
    TokenizeTextRequest,
    TokenizeChatRequest,
    DetokenizeRequest,
)

# A string for each of more tokens would take too much memory.
MAX_TOKEN_STRINGS = 500_000

Endpoint = Callable[[ServerContext, Request], Awaitable[Response]]


def add_routes(app: FastAPI, context: ServerContext) -> None:
    """Give `app` the paths that clients of a model use."""
    stream = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
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
            responses={**errors(400, 401, 404, 413, 415, 429, 500, 503), **(extra or {})},
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

    @app.get("/v1/models", response_model=responses.ModelList, responses=errors(401))
    async def list_models() -> Response:
        return json_response({"object": "list", "data": [card(name) for name in context.state.model_names]})

    @app.get("/v1/models/{model:path}", response_model=responses.ModelCard, responses=errors(401, 404))
    async def retrieve_model(model: str) -> Response:
        if model not in context.state.model_names:
            raise ModelNotFoundError(model, context.state.model_names)
        return json_response(card(model))


async def tokenize(context: ServerContext, request: Request) -> Response:
    """Token ids of a text or of a rendered conversation."""
    body = await parse_body_as(context, request, _tokenize_body)
    context.check_model(body.model)
    if isinstance(body, TokenizeChatRequest):
        body.refuse_unsupported()
        tokens = (await encode_conversation(context, body)).token_ids
    else:
        tokens = await encode_text(context, body.prompt, body.add_special_tokens)
    if body.return_token_strs and len(tokens) > MAX_TOKEN_STRINGS:
        raise RequestError(
            f"return_token_strs: the text has {len(tokens)} tokens; at most {MAX_TOKEN_STRINGS} get strings",
            param="return_token_strs",
        )

    def write() -> Response:
        spelling = context.state.tokenizer.token_spelling
        return json_response(
            {
                "count": len(tokens),
                "max_model_len": context.state.max_model_len,
                "tokens": tokens,
                "token_strs": [spelling(token) for token in tokens] if body.return_token_strs else None,
            }
        )

    return await context.write(len(tokens), write)


def _tokenize_body(value: dict[str, Any]) -> type[TokenizeTextRequest] | type[TokenizeChatRequest]:
    return TokenizeChatRequest if "messages" in value else TokenizeTextRequest


async def detokenize(context: ServerContext, request: Request) -> Response:
    """The text of token ids, special tokens included."""
    body = await parse_body(context, request, DetokenizeRequest)
    context.check_model(body.model)

    def write() -> Response:
        vocab_size = context.state.tokenizer.vocab_size
        wrong = next((token for token in body.tokens if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise RequestError(f"tokens: {wrong} is not a token id, 0 to {vocab_size - 1}", param="tokens")
        return json_response({"prompt": context.state.tokenizer.decode(body.tokens, False)})

    return await context.write(len(body.tokens), write)
