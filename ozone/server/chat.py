"""`/v1/chat/completions`: the assistant's next message in a conversation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from starlette.responses import Response

from ozone.engine.collector import OutputCollector
from ozone.engine.outputs import CompletionOutput, RequestDelta
from ozone.engine.sampling_params import SamplingParams
from ozone.server.answers import Envelope, Work, answer_with, token_names
from ozone.server.body import parse_body
from ozone.server.context import ServerContext
from ozone.server.generation import Arrival
from ozone.server.logprobs import chat_logprobs, prompt_logprobs_json
from ozone.server.prompts import RenderedPrompt, encode_conversation
from ozone.server.request_ids import name_request
from ozone.server.requests import ChatCompletionRequest
from ozone.server.sampling import max_new_tokens, sampling_params
from ozone.server.truncation import truncation_of

# Fields of a message that are there and null, since clients read them.
_LACKING_IN_MESSAGE = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))


async def create_chat_completion(context: ServerContext, request: Request) -> Response:
    """Answer one request."""
    arrival_time = time.monotonic()
    context.check_ready()
    context.check_room()
    body = await parse_body(context, request, ChatCompletionRequest)
    body.request_id = name_request(request.scope, body.request_id)
    body.check()
    context.check_model(body.model)
    field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked: int | None = getattr(body, field)
    truncation = truncation_of(body, asked or 0, context.state.max_model_len)
    prompt = await encode_conversation(context, body, truncation)
    max_tokens = max_new_tokens(asked, len(prompt.token_ids), context.state, unless_asked=None, field=field)
    prepared = await context.prepare(body, lambda: _params(context, body, max_tokens))
    work = Work([prompt.token_ids], prepared, [max_tokens], arrival_time)
    return await answer_with(ChatAnswer(context, body, prompt), context, request, body, work)


def _params(context: ServerContext, body: ChatCompletionRequest, max_tokens: int) -> SamplingParams:
    return sampling_params(
        body,
        context.state.default_sampling_params,
        max_tokens=max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )


class ChatAnswer:
    """Writes the answer to one request."""

    def __init__(self, context: ServerContext, body: ChatCompletionRequest, prompt: RenderedPrompt) -> None:
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        self.envelope = Envelope("chatcmpl", kind, context, body, len(prompt.token_ids))
        self._body = body
        self._of_prompt = {
            "prompt_token_ids": prompt.token_ids if body.return_token_ids else None,
            "prompt_text": prompt.text if body.return_prompt_text else None,
        }
        self._names = token_names(context, body)
        self._started = False
        self._collector = OutputCollector(self.envelope.id, None, prompt.token_ids, body.n)

    def events(self, arrivals: list[Arrival] | None) -> Iterator[dict[str, Any]]:
        if arrivals is None:
            yield from self.envelope.end()
            return
        if not self._started:
            self._started = True
            for index in range(self._body.n):
                yield self._first_event(index)
        for arrival in arrivals:
            delta = arrival.delta
            self.envelope.usage.add(delta)
            choice: dict[str, Any] = {
                "index": delta.index,
                "delta": {"content": delta.text} if delta.text else {},
                "logprobs": self._logprobs(delta),
                "finish_reason": delta.finish_reason,
            }
            if delta.finish_reason:
                choice["stop_reason"] = delta.stop_reason
            choice["token_ids"] = delta.token_ids if self._body.return_token_ids else None
            if delta.text or choice["logprobs"] or choice["token_ids"] or delta.finish_reason:
                yield self.envelope.chunk(choice)

    def _first_event(self, index: int) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self.envelope.chunk(choice, **self._of_prompt)

    def add(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self.envelope.usage.add(arrival.delta)
            self._collector.add(arrival.delta)

    def whole(self) -> dict[str, Any]:
        output = self._collector.output(compact=True)
        choices = []
        for completion in output.outputs:
            choice: dict[str, Any] = {
                "index": completion.index,
                "message": {"role": "assistant", "content": completion.text, **_LACKING_IN_MESSAGE},
                "logprobs": self._logprobs(completion),
                "finish_reason": completion.finish_reason,
                "stop_reason": completion.stop_reason,
                "token_ids": completion.token_ids if self._body.return_token_ids else None,
            }
            choices.append(choice)
        return {
            **self.envelope.whole(choices),
            "prompt_logprobs": prompt_logprobs_json(output.prompt_logprobs, self._names),
            **self._of_prompt,
        }

    def _logprobs(self, part: RequestDelta | CompletionOutput) -> dict[str, Any] | None:
        if not part.logprobs:
            return None
        ended_by_token = part.finish_reason == "stop" and not isinstance(part.stop_reason, str)
        return chat_logprobs(
            part.token_ids,
            part.logprobs,
            -1 if self._body.logprob_token_ids else self._body.top_logprobs or 0,
            self._names,
            last_is_left_out=ended_by_token and not self._body.include_stop_str_in_output,
        )
