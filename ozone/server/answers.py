"""What answers of both kinds of generation have in common: ids, times, usage, and the way they are sent."""

from __future__ import annotations

import importlib.metadata
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from fastapi import Request
from starlette.responses import Response

from ozone.engine.outputs import RequestDelta
from ozone.engine.prepared_params import PreparedParams
from ozone.errors import RequestError
from ozone.server.context import ServerContext
from ozone.server.flags import ServerSettings
from ozone.server.generation import Arrival
from ozone.server.request_log import OutputLog, log_request
from ozone.server.requests import GenerationRequest
from ozone.server.result_memory import result_size
from ozone.server.streaming import EventStream
from ozone.server.token_names import TokenNames

VERSION = importlib.metadata.version("ozone-llm")


def json_response(value: Any) -> Response:
    """A JSON value as a whole response."""
    return Response(orjson.dumps(value), media_type="application/json")


@dataclass(frozen=True)
class Work:
    """What the engine is to do for one HTTP request.

    Attributes:
        limits: the most tokens of a completion, for each prompt.
        echo: each completion repeats its prompt.
        arrival_time: of the request, in seconds of `time.monotonic`.
    """

    prompts: Sequence[list[int]]
    prepared: PreparedParams
    limits: Sequence[int]
    arrival_time: float
    echo: bool = False


def token_names(context: ServerContext, body: GenerationRequest) -> TokenNames:
    """How an answer to this request writes tokens."""
    return TokenNames(
        context.state.tokenizer,
        as_ids=context.state.settings.return_tokens_as_token_ids
        if body.return_tokens_as_token_ids is None
        else body.return_tokens_as_token_ids,
        skip_special_tokens=body.skip_special_tokens,
    )


class Usage:
    """Counts the tokens of one HTTP request. A prompt counts once, however many completions it has."""

    def __init__(self, prompt_tokens: int, settings: ServerSettings) -> None:
        self.prompt_tokens = prompt_tokens
        self._has_details = settings.prompt_tokens_details
        self.completion_tokens = 0
        self.cached_tokens = 0

    def add(self, delta: RequestDelta) -> None:
        """Count one delta."""
        self.completion_tokens += len(delta.token_ids)
        if delta.index == 0 and delta.num_cached_tokens is not None:
            self.cached_tokens += delta.num_cached_tokens

    def json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens} if self._has_details else None,
        }


class Envelope:
    """The fields around the choices: the same in every chunk of a stream and in a whole answer."""

    def __init__(
        self, prefix: str, kind: str, context: ServerContext, body: GenerationRequest, num_prompt_tokens: int
    ) -> None:
        settings = context.state.settings
        self.id = f"{prefix}-{body.request_id or uuid.uuid4().hex}"
        self.usage = Usage(num_prompt_tokens, settings)
        self._kind = kind
        self._fields = {
            "created": int(time.time()),
            "model": context.model_name,
            "system_fingerprint": f"ozone-{VERSION}",
        }
        options = body.stream_options
        forced = settings.force_include_usage
        self._include_usage = forced or bool(options and options.include_usage)
        self._continuous = forced or bool(
            options and options.include_usage and options.continuous_usage_stats
        )

    def whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """An answer in one piece."""
        fields = {"id": self.id, "object": self._kind, **self._fields}
        lacking = {"service_tier": None, "kv_transfer_params": None}
        return {**fields, "choices": choices, "usage": self.usage.json(), **lacking}

    def chunk(self, choice: dict[str, Any], **extra: Any) -> dict[str, Any]:
        """One event of a stream."""
        chunk = {"id": self.id, "object": self._kind, **self._fields, "choices": [choice], **extra}
        if self._include_usage:
            chunk["usage"] = self.usage.json() if self._continuous else None
        return chunk

    def end(self) -> list[dict[str, Any]]:
        """The events after the last choice has ended."""
        if not self._include_usage:
            return []
        fields = {"id": self.id, "object": self._kind, **self._fields}
        return [{**fields, "choices": [], "usage": self.usage.json()}]


class Answer(Protocol):
    """One endpoint's way to write what the engine produces."""

    envelope: Envelope

    def events(self, arrivals: list[Arrival] | None) -> Iterable[dict[str, Any]]:
        """Events for a stream; None once at its end."""

    def add(self, arrivals: list[Arrival]) -> None:
        """Take part of a whole answer."""

    def whole(self) -> dict[str, Any]:
        """The whole answer, once everything was added."""


async def answer_with(
    answer: Answer,
    context: ServerContext,
    request: Request,
    body: GenerationRequest,
    work: Work,
) -> Response:
    """Have the engine work on the prompts, and send the answer whole or as a stream."""
    params = work.prepared.params
    completions = len(work.prompts) * params.n
    most = context.state.max_waiting_requests
    if most is not None and completions > most:
        raise RequestError(
            f"The request asks for {completions} completions; at most {most} may wait",
            param="prompt",
        )
    lengths = [len(prompt) for prompt in work.prompts]
    size = result_size(
        lengths,
        work.limits,
        params,
        vocab_size=context.state.tokenizer.vocab_size,
        echo=work.echo,
        stream=body.stream,
    )
    settings = context.state.settings
    interval = max(settings.stream_interval, body.stream_interval or 1) if body.stream else 1
    generation = context.generation(answer.envelope.id, size, interval)
    await generation.submit(
        work.prompts,
        work.prepared,
        work.limits,
        priority=body.priority,
        cache_salt=body.cache_salt,
        arrival_time=work.arrival_time,
    )
    if settings.log_requests:
        log_request(answer.envelope.id, work.prompts, params)
    outputs = OutputLog(answer.envelope.id, settings) if settings.log_outputs else None
    if body.stream:
        return EventStream(generation, answer.events, context, outputs)
    num_parts = 0
    with generation.watch(request.receive):
        async for arrivals in generation.batches():
            answer.add(arrivals)
            num_parts += generation.keep(arrivals)
            if outputs is not None:
                outputs.add(arrivals)
        data = await context.write(num_parts, lambda: orjson.dumps(answer.whole()))
    return Response(data, media_type="application/json")
