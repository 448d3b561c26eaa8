"""Choosing the next tokens of 32 requests out of a vocabulary of 49,152, and reporting logprobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ozone.bench.kernels.cases import Call, Case, Work
from ozone.engine.native_sampler import make_sampler
from ozone.engine.prepared_params import TokenRules
from ozone.engine.sampling_params import SamplingParams
from ozone.engine.sampling_state import SamplingState

_REQUESTS, _VOCABULARY = 32, 49152
_CONTEXT = 512
# Logits of language models spread about so much: a few hundred tokens have nine tenths of the probability.
_SPREAD = 3.0

_PENALTIES = {"repetition_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.1}
_SAMPLED = {"temperature": 0.8}
_USUAL = {**_SAMPLED, "top_k": 40, "top_p": 0.95}


def _greedy(logits: Tensor) -> object:
    return logits.argmax(-1)


def _sample(logits: Tensor) -> object:
    return torch.multinomial(torch.softmax(logits / 0.8, -1), 1)


def _sample_top_k(logits: Tensor) -> object:
    values, ids = logits.topk(40, -1)
    return ids.gather(1, torch.multinomial(_nucleus(torch.softmax(values / 0.8, -1)), 1))


def _sample_top_p(logits: Tensor) -> object:
    values, ids = logits.sort(-1, descending=True)
    return ids.gather(1, torch.multinomial(_nucleus(torch.softmax(values / 0.8, -1)), 1))


def _nucleus(probabilities: Tensor) -> Tensor:
    """Those of a sorted distribution that come before 95% of it are reached."""
    return probabilities.where(probabilities.cumsum(-1) - probabilities < 0.95, 0)


# What is asked for, and how one would write it in torch.
_KINDS: dict[str, tuple[dict[str, Any], Callable[[Tensor], object] | None]] = {
    "greedy": ({"temperature": 0.0}, _greedy),
    "temperature": (_SAMPLED, _sample),
    "top-k 40, top-p 0.95": (_USUAL, _sample_top_k),
    "top-p 0.95": ({**_SAMPLED, "top_p": 0.95}, _sample_top_p),
    "min-p 0.05": ({**_SAMPLED, "min_p": 0.05}, None),
    "top-p 0.95, penalties": ({**_SAMPLED, "top_p": 0.95, **_PENALTIES}, None),
    "top-k, top-p, 5 logprobs": ({**_USUAL, "logprobs": 5}, None),
}


def cases() -> Iterator[Case]:
    for kind, (params, peer) in _KINDS.items():
        shape = f"{_REQUESTS} x {_VOCABULARY}, {kind}"
        yield Case("sample", "fp32", shape, partial(_work, params, peer))


def _work(params: dict[str, Any], peer: Callable[[Tensor], object] | None) -> Work:
    logits = torch.randn(_REQUESTS, _VOCABULARY) * _SPREAD
    states = [_state(params, request) for request in range(_REQUESTS)]
    sampler = make_sampler(_VOCABULARY, _REQUESTS)
    peers: dict[str, list[Call]] = {} if peer is None else {"ATen": [partial(peer, logits)]}
    size = logits.numel() * logits.element_size()
    return Work(
        [partial(sampler.sample, logits.numpy(), states)],
        touched=size,
        peers=peers,
        repeatable="logprobs" not in params,
    )


def _state(params: dict[str, Any], request: int) -> SamplingState:
    tokens = torch.randint(_VOCABULARY, (_CONTEXT,)).tolist()
    chosen = SamplingParams(max_tokens=None, **params)
    return SamplingState(chosen, tokens, seed=request, vocab_size=_VOCABULARY, rules=TokenRules(chosen))
