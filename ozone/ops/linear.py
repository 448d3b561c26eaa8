"""Products with weight matrices. Sums are float32; a result is rounded once, to the activations' type."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ozone.ops.registry import op

_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@op("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``: (tokens, columns) by (rows, columns) -> (tokens, rows)."""
    return _product(x, weight, bias)


@op("logits")
def logits(x: Tensor, weight: Tensor, softcap: float | None) -> Tensor:
    """Scores of every token of the vocabulary: (tokens, columns) by (vocabulary, columns) -> float32.

    With a soft cap the scores are ``softcap * tanh(score / softcap)``.
    """
    scores = _product(x, weight, None).to(torch.float32)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype is not torch.bfloat16 or x.shape[0] != 1 or not _ONEDNN:
        return functional.linear(x, weight, bias)
    # ATen's own bfloat16 matrix-vector product reads weights twice as fast as oneDNN's, which torch would
    # choose. `torch.backends.mkldnn.flags` says the same as these calls at many times their cost.
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return functional.linear(x, weight, bias)
    finally:
        torch._C._set_mkldnn_enabled(enabled)
