"""Products with weight matrices. Sums are float32; a result is rounded once, to the activations' type."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ozone.ops.registry import op


@op("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``: (tokens, columns) by (rows, columns) -> (tokens, rows)."""
    return functional.linear(x, weight, bias)


@op("logits")
def logits(x: Tensor, weight: Tensor, softcap: float | None) -> Tensor:
    """Scores of every token of the vocabulary: (tokens, columns) by (vocabulary, columns) -> float32.

    With a soft cap the scores are ``softcap * tanh(score / softcap)``.
    """
    scores = functional.linear(x, weight).to(torch.float32)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
