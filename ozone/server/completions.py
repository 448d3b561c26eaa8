"""`/v1/completions`: text that goes on from a prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from ozone.engine.collector import OutputCollector
from ozone.engine.sampling_params import SamplingParams
from ozone.errors import RequestError
from ozone.server.answers import Envelope, Work, answer_with, token_names
from ozone.server.body import parse_body
from ozone.server.completion_choice import CompletionChoice, CompletionPrompt
from ozone.server.context import ServerContext
from ozone.server.generation import Arrival
from ozone.server.logprobs import prompt_logprobs_json
from ozone.server.prompts import encode_prompts
from ozone.server.request_ids import name_request
from ozone.server.requests import CompletionRequest
from ozone.server.sampling import max_new_tokens, sampling_params
from ozone.server.truncation import truncation_of

DEFAULT_MAX_TOKENS = 16


async def create_completion(context: ServerContext, request: Request) -> Response:
    """Answer one request."""
    arrival_time = time.monotonic()
    context.check_ready()
    context.check_room()
    body = await parse_body(context, request, CompletionRequest)
    body.request_id = name_request(request.scope, body.request_id)
    body.check()
    context.check_model(body.model)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    truncation = truncation_of(body, max_tokens, context.state.max_model_len)
    prompts = await encode_prompts(context, body, truncation)
    limits = [_limit(context, body, len(token_ids)) for token_ids in prompts]
    prepared = await context.prepare(body, lambda: _params(context, body, max(limits)))
    work = Work(prompts, prepared, limits, arrival_time, body.echo)
    return await answer_with(CompletionAnswer(context, body, prompts), context, request, body, work)


def _limit(context: ServerContext, body: CompletionRequest, prompt_len: int) -> int:
    """The most tokens of each completion of a prompt."""
    if body.max_tokens == 0 and not body.echo:
        raise RequestError("max_tokens must be at least 1, or 0 with echo: true", param="max_tokens")
    # A score of the prompt alone: the engine must take one step, whose token is left out of the answer.
    asked = 1 if body.max_tokens == 0 else body.max_tokens
    return max_new_tokens(asked, prompt_len, context.state, unless_asked=DEFAULT_MAX_TOKENS)


def _params(context: ServerContext, body: CompletionRequest, max_tokens: int) -> SamplingParams:
    prompt_logprobs = body.prompt_logprobs
    if prompt_logprobs is None and body.echo:
        prompt_logprobs = body.logprobs
    return sampling_params(
        body,
        context.state.default_sampling_params,
        max_tokens=max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=prompt_logprobs,
    )


class CompletionAnswer:
    """Writes the answer to one request."""

    def __init__(
        self,
        context: ServerContext,
        body: CompletionRequest,
        prompts: Sequence[list[int]],
    ) -> None:
        num_prompt_tokens = sum(map(len, prompts))
        self.envelope = Envelope("cmpl", "text_completion", context, body, num_prompt_tokens)
        self._body = body
        self._names = token_names(context, body)
        self._prompts = [
            CompletionPrompt(context.state.tokenizer, given, token_ids, skip_special=body.skip_special_tokens)
            for given, token_ids in zip(body.prompt, prompts, strict=True)
        ]
        self._choices: dict[tuple[int, int], CompletionChoice] = {}
        self._collectors = [OutputCollector(self.envelope.id, None, prompt, body.n) for prompt in prompts]

    def events(self, arrivals: list[Arrival] | None) -> Iterator[dict[str, Any]]:
        if arrivals is None:
            yield from self.envelope.end()
            return
        for _, prompt_index, delta, _ in arrivals:
            self._count(delta)
            prompt = self._prompts[prompt_index]
            if delta.prompt_logprobs is not None:
                prompt.logprobs = delta.prompt_logprobs
            key = prompt_index, delta.index
            choice = self._choices.get(key)
            if choice is None:
                choice = self._choices[key] = self._choice(*key)
            piece = choice.piece(delta)
            if piece["text"] or piece["logprobs"] or piece["token_ids"] or delta.finish_reason:
                yield self.envelope.chunk(piece)

    def add(self, arrivals: list[Arrival]) -> None:
        for _, prompt_index, delta, _ in arrivals:
            self._count(delta)
            self._collectors[prompt_index].add(delta)

    def whole(self) -> dict[str, Any]:
        choices = []
        for prompt_index, collector in enumerate(self._collectors):
            output = collector.output(compact=True)
            self._prompts[prompt_index].logprobs = output.prompt_logprobs
            for completion in output.outputs:
                choice = self._choice(prompt_index, completion.index).piece(completion)
                wanted = output.prompt_logprobs if self._body.prompt_logprobs is not None else None
                choice["prompt_logprobs"] = prompt_logprobs_json(wanted, self._names)
                choices.append(choice)
        return self.envelope.whole(choices)

    def _count(self, delta: Any) -> None:
        if self._body.max_tokens != 0:
            self.envelope.usage.add(delta)

    def _choice(self, prompt_index: int, index: int) -> CompletionChoice:
        number = prompt_index * self._body.n + index
        return CompletionChoice(number, self._prompts[prompt_index], self._body, self._names)
