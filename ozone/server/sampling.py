"""From a request's fields and the model's defaults to `SamplingParams`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ozone.engine.sampling_params import SamplingParams
from ozone.errors import RequestError
from ozone.server.requests import GenerationRequest
from ozone.server.state import ServerState

# A request's value, else the model's own default, else SamplingParams'.
_DEFAULTED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_COPIED = (
    "n",
    "seed",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "logprob_token_ids",
)


def sampling_params(
    request: GenerationRequest,
    defaults: Mapping[str, Any],
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """The parameters of one prompt of a request. Raises RequestError for values out of range."""
    chosen: dict[str, Any] = {name: getattr(request, name) for name in _COPIED}
    for name in _DEFAULTED:
        value = getattr(request, name)
        if value is None:
            value = defaults.get(name)
        if value is not None:
            chosen[name] = value
    return SamplingParams(
        **chosen,
        stop=list(request.stop),
        stop_token_ids=request.stop_token_ids or [],
        max_tokens=max_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def max_new_tokens(
    asked: int | None,
    prompt_len: int,
    state: ServerState,
    *,
    unless_asked: int | None,
    field: str = "max_tokens",
) -> int:
    """How many tokens a prompt may get: as many as asked for in `field`, within the model's own limit.

    `unless_asked`: how many where the request names no number; None is the rest of the context.
    Raises RequestError where the prompt, or the prompt and the number asked for, exceed the context.
    """
    room = state.max_model_len - prompt_len
    if room < 1:
        raise RequestError(
            f"The prompt has {prompt_len} tokens, and one more is to be generated; "
            f"the context holds {state.max_model_len}",
            param="prompt" if unless_asked else "messages",
        )
    if asked is not None and asked < 1:
        raise RequestError(f"{field} must be at least 1, not {asked}", param=field)
    if asked is not None and asked > room:
        raise RequestError(
            f"The prompt has {prompt_len} tokens and {asked} more are asked for; "
            f"the context holds {state.max_model_len}",
            param=field,
        )
    most = min(room, state.default_sampling_params.get("max_tokens") or room)
    return min(most, asked or unless_asked or most)
