"""How to choose the next token: one request's sampling parameters, under vLLM's names.

Values are checked when the object is made; what depends on the model (vocabulary, context) is checked
when the engine receives the request.
"""

from __future__ import annotations

import difflib
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ozone.errors import RequestError, shown

# Below this temperature the choice is greedy.
GREEDY_TEMPERATURE = 1e-5

MAX_LOGPROB_TOKEN_IDS = 1024

# Arguments of vLLM's SamplingParams that Ozone lacks, with the value that means "not used".
MISSING_ARGUMENTS: Mapping[str, object] = {
    "best_of": None,
    "detect_repetition": None,
    "extra_args": None,
    "flat_logprobs": False,
    "guided_decoding": None,
    "logits_processors": None,
    "output_kind": None,
    "output_text_buffer_length": 0,
    "repetition_detection": None,
    "skip_clone": False,
    "skip_reading_prefix_cache": None,
    "spaces_between_special_tokens": True,
    "structured_outputs": None,
    "thinking_token_budget": None,
    "truncate_prompt_tokens": None,
    "use_beam_search": False,
}

_Class = TypeVar("_Class")


def _answers_unknown_arguments(cls: type[_Class]) -> type[_Class]:
    """Make `cls` refuse unknown keyword arguments in one clear line.

    One that vLLM has and Ozone has not is let through with its "not used" value.
    """
    generated: Callable[..., None] = cls.__init__

    @functools.wraps(generated)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        known = {f.name for f in fields(self) if f.init}
        for name in kwargs.keys() - known:
            value = kwargs.pop(name)
            if name not in MISSING_ARGUMENTS:
                raise _unknown_argument(name, known)
            if value != MISSING_ARGUMENTS[name]:
                raise RequestError(f"vLLM has the sampling parameter {name}; Ozone does not", param=name)
        generated(self, *args, **kwargs)

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls


def _unknown_argument(name: str, known: Iterable[str]) -> RequestError:
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return RequestError(f"there is no sampling parameter {name}{hint}", param=name)


@_answers_unknown_arguments
@dataclass
class SamplingParams:
    """Parameters of one request. Names, meanings and defaults are vLLM's.

    Attributes:
        n: completions to generate for the prompt.
        presence_penalty, frequency_penalty: OpenAI's additive penalties on generated tokens, -2 to 2.
        repetition_penalty: multiplicative penalty on prompt and generated tokens, 0.001 to 1000; 1 is none.
        temperature: 0 is greedy.
        top_p, top_k, min_p: truncations of the distribution; 1, 0 (or -1) and 0 are none.
        seed: seed of the counter-based generator; None (or -1) draws a fresh one.
        stop: strings that end the text. stop_token_ids: tokens that end it.
        ignore_eos: go on after end-of-sequence.
        max_tokens: most tokens to generate; None is up to the context's end.
        min_tokens: tokens to generate before anything but max_tokens may end the text.
        logprobs: report this many most likely tokens per step, besides the chosen (-1: all).
        prompt_logprobs: the same for each token of the prompt.
        logprob_token_ids: report these tokens per step, besides the chosen, in place of the most likely.
        detokenize: produce text, also of reported tokens. skip_special_tokens: leave special ones out of it.
        include_stop_str_in_output: keep the stop string (or the stop token's text) in the text.
        logit_bias: additive bias per token id. allowed_token_ids: nothing else may be sampled.
        bad_words: strings whose tokens are never completed (as vLLM: with and without a space before).

    Raises `RequestError` with `param` set to the offending field.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    stop_strings: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_distribution()
        self._check_token_lists()
        self._check_text()

    def clone(self) -> SamplingParams:
        """A checked copy that shares no list or dict with this one."""
        copy = replace(self)
        for name in (
            "stop",
            "stop_token_ids",
            "logit_bias",
            "allowed_token_ids",
            "bad_words",
            "logprob_token_ids",
        ):
            value = getattr(copy, name)
            if isinstance(value, list | dict):
                setattr(copy, name, value.copy())
        return copy

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE

    def _check_counts(self) -> None:
        self.n = _integer("n", self.n, at_least=1)
        if self.seed is not None:
            self.seed = _integer("seed", self.seed)
            if self.seed == -1:
                self.seed = None
        self.min_tokens = _integer("min_tokens", self.min_tokens, at_least=0)
        if self.max_tokens is not None:
            self.max_tokens = _integer("max_tokens", self.max_tokens, at_least=1)
            if self.min_tokens > self.max_tokens:
                raise RequestError(
                    f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})",
                    param="min_tokens",
                )
        if self.logprobs is not None:
            self.logprobs = _integer("logprobs", self.logprobs, at_least=-1)
        if self.prompt_logprobs is not None:
            self.prompt_logprobs = _integer("prompt_logprobs", self.prompt_logprobs, at_least=-1)

    def _check_distribution(self) -> None:
        self.presence_penalty = _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        self.frequency_penalty = _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        self.repetition_penalty = _number("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)
        self.temperature = _number("temperature", self.temperature, 0.0)
        self.top_p = _number("top_p", self.top_p, 0.0, 1.0, above=True)
        self.min_p = _number("min_p", self.min_p, 0.0, 1.0)
        self.top_k = max(0, _integer("top_k", self.top_k, at_least=-1))

    def _check_token_lists(self) -> None:
        if self.stop_token_ids is not None:
            self.stop_token_ids = _token_ids("stop_token_ids", self.stop_token_ids)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _token_ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise RequestError("allowed_token_ids must not be empty", param="allowed_token_ids")
        if self.logprob_token_ids is not None:
            self.logprob_token_ids = _token_ids("logprob_token_ids", self.logprob_token_ids)
            if len(self.logprob_token_ids) > MAX_LOGPROB_TOKEN_IDS:
                raise RequestError(
                    f"logprob_token_ids has {len(self.logprob_token_ids)} entries; "
                    f"the most is {MAX_LOGPROB_TOKEN_IDS}",
                    param="logprob_token_ids",
                )
        if self.logit_bias is not None:
            self.logit_bias = _logit_bias(self.logit_bias)

    def _check_text(self) -> None:
        for name in ("ignore_eos", "detokenize", "skip_special_tokens", "include_stop_str_in_output"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(
                    f"{name} must be true or false, not {_shown(getattr(self, name))}", param=name
                )
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        self.stop_strings = tuple(_strings("stop", stop or []))
        if self.stop_strings and not self.detokenize:
            raise RequestError("stop strings need text: set detokenize to true", param="stop")
        if self.bad_words is not None:
            self.bad_words = _strings("bad_words", self.bad_words)


def _shown(value: object) -> str:
    """A value of unknown size, such as an integer of more digits than Python prints."""
    try:
        return shown(value)
    except ValueError:
        return "a number of thousands of digits"


def _integer(name: str, value: object, *, at_least: int | None = None) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise RequestError(f"{name} must be an integer, not {_shown(value)}", param=name) from None
    if not -(1 << 63) <= number < 1 << 63:
        raise RequestError(f"{name} must fit a signed 64-bit integer, not {_shown(number)}", param=name)
    if at_least is not None and number < at_least:
        raise RequestError(f"{name} must be at least {at_least}, not {_shown(number)}", param=name)
    return number


def _number(name: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """A finite float in [low, high], or in (low, high] with `above`."""
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"{name} must be a number, not {_shown(value)}", param=name) from None
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        bound = f"above {low:g}" if above else f"at least {low:g}"
        bound += "" if high == math.inf else f" and at most {high:g}"
        raise RequestError(f"{name} must be {bound}, not {number:g}", param=name)
    return number


def _token_ids(name: str, value: object) -> list[int]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise RequestError(f"{name} must be a list of token ids, not {_shown(value)}", param=name)
    token_ids = list(value)
    if not set(map(type, token_ids)) <= {int} or (token_ids and min(token_ids) < 0):
        return [_integer(name, token_id, at_least=0) for token_id in token_ids]  # numpy's, or a wrong one
    return token_ids


def _logit_bias(value: object) -> dict[int, float]:
    """Token ids may come as strings, as in JSON; biases are clamped to [-100, 100] as OpenAI says."""
    if not isinstance(value, Mapping):
        raise RequestError(
            f"logit_bias must map token ids to numbers, not {_shown(value)}", param="logit_bias"
        )
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if isinstance(key, str) and not (key.isdecimal() and len(key) < 20):
            raise RequestError(f"logit_bias has the key {_shown(key)}, not a token id", param="logit_bias")
        token_id = int(key) if isinstance(key, str) else _integer("logit_bias", key, at_least=0)
        biases[token_id] = min(100.0, max(-100.0, _number("logit_bias", bias, -math.inf)))
    return biases


def _strings(name: str, value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise RequestError(f"{name} must be a list of strings, not {_shown(value)}", param=name)
    strings = list(value)
    for string in strings:
        if not isinstance(string, str) or not string:
            raise RequestError(
                f"{name} must hold strings that are not empty, not {_shown(string)}", param=name
            )
    return strings
