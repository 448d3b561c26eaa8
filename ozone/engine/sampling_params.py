"""How to choose the next token: one request's sampling parameters, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field

from ozone.errors import RequestError


@dataclass
class SamplingParams:
    """Parameters of one request. Names, meanings and defaults are vLLM's.

    Attributes:
        n: completions to generate for the prompt.
        presence_penalty, frequency_penalty: OpenAI's additive penalties on generated tokens, -2 to 2.
        repetition_penalty: multiplicative penalty on prompt and generated tokens, > 0; 1 is none.
        temperature: 0 is greedy.
        top_p, top_k, min_p: truncations of the distribution; 1, 0 (or -1) and 0 are none.
        seed: seed of the counter-based generator; None draws a fresh one.
        stop: strings that end the text. stop_token_ids: tokens that end it.
        ignore_eos: go on after end-of-sequence.
        max_tokens: most tokens to generate; None is up to the context's end. min_tokens: fewest.
        logprobs: report this many most likely tokens per step, besides the chosen (-1: all).
        prompt_logprobs: the same for each token of the prompt.
        detokenize: produce text. skip_special_tokens: leave special tokens out of it.
        include_stop_str_in_output: keep the stop string in the text.
        logit_bias: additive bias per token id. allowed_token_ids: nothing else may be sampled.
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
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    stop_strings: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        raise RequestError("replace me: validation belongs to the engine's author")
