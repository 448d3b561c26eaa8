"""From a request's fields and the model's defaults to `SamplingParams`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ozone.engine.sampling_params import SamplingParams
from ozone.errors import RequestError
from ozone.server.requests import GenerationRequest

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
    asked: int | None, prompt_len: int, max_model_len: int, *, default: int | None, param: str
) -> int:
    """How many tokens a prompt may get.

    `default` counts where the request asks for no number; None is the rest of the context.
    Raises RequestError where the prompt, or the prompt and the number asked for, exceed the context.
    """
    room = max_model_len - prompt_len
    if room < 1:
        raise RequestError(
            f"The prompt has {prompt_len} tokens; the context of {max_model_len} leaves no room",
            param=param,
        )
    if asked is None:
        return room if default is None else min(room, default)
    if asked > room:
        raise RequestError(
            f"The prompt has {prompt_len} tokens and {asked} more are asked for; "
            f"the context holds {max_model_len}",
            param="max_tokens",
        )
    return asked
