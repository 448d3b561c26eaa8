"""Products with weight matrices. Sums are float32; a result is rounded once, to the activations' type."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ozone.ops.registry import op

# Elements of the output matrix converted at a time: about 4 MB.
_CHUNK = 1 << 20
_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@op("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, rows: int) -> Tensor:  # noqa: ARG001
    """``x @ weight.T + bias + residual``: (tokens, columns) by (rows, columns) -> (tokens, rows).

    Args:
        bias: (rows,), float32.
        residual: (tokens, rows), of the type of `x`.
    """
    product = _product(x, weight, None if bias is None else bias.to(x.dtype))
    return product if residual is None else product + residual


def _fake_logits(x: Tensor, weight: Tensor, softcap: float | None, rows: int) -> Tensor:  # noqa: ARG001
    return x.new_empty((x.shape[0], rows), dtype=torch.float32)


@op("logits", fake=_fake_logits)
def logits(x: Tensor, weight: Tensor, softcap: float | None, rows: int) -> Tensor:  # noqa: ARG001
    """Scores of every token of the vocabulary: (tokens, columns) by (vocabulary, columns) -> float32.

    Sums are not rounded to the weights' type on their way. With a soft cap the scores are
    ``softcap * tanh(score / softcap)``.
    """
    scores = _float32_product(x, weight)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype is torch.bfloat16 and x.shape[0] == 1:
        return _without_onednn(functional.linear, x, weight, bias)
    return functional.linear(x, weight, bias)


def _float32_product(x: Tensor, weight: Tensor) -> Tensor:
    if x.dtype is torch.float32:
        return functional.linear(x, weight)
    if x.dtype is torch.bfloat16 and x.shape[0] == 1:
        return _without_onednn(_product_and_rest, x, weight)
    return _product_in_chunks(x, weight)


def _product_and_rest(x: Tensor, weight: Tensor) -> Tensor:
    """A product with twice bfloat16's digits: as it is rounded, plus what the rounding lost, which a second
    product gives when it starts from minus the first. Twice the work, where float32 would be four times.
    """
    rounded = functional.linear(x, weight)
    rest = torch.addmm(-rounded, x, weight.t())
    return rounded.to(torch.float32) + rest


def _product_in_chunks(x: Tensor, weight: Tensor) -> Tensor:
    """A float32 product with a few rows of the weights at a time, converted while they are in a cache."""
    tokens, columns = x.shape
    rows = weight.shape[0]
    # One token would become a matrix-vector product, which in float32 takes longer than two tokens do.
    wide = x.to(torch.float32).expand(2 if tokens == 1 else tokens, -1)
    scores = wide.new_empty((tokens, rows))
    size = max(_CHUNK // columns, 1)
    chunk = wide.new_empty((min(size, rows), columns))
    for start in range(0, rows, size):
        part = chunk[: min(size, rows - start)].copy_(weight[start : start + size])
        scores[:, start : start + size] = (wide @ part.t())[:tokens]
    return scores


def _without_onednn(product: Callable[..., Tensor], *arguments: Tensor | None) -> Tensor:
    """ATen's own bfloat16 matrix-vector product, which reads weights twice as fast as oneDNN's, torch's
    choice. See docs/decisions/0002-one-row-products.md.
    """
    if not _ONEDNN:
        return product(*arguments)
    # `torch.backends.mkldnn.flags` says the same as these calls at many times their cost.
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return product(*arguments)
    finally:
        torch._C._set_mkldnn_enabled(enabled)
