"""Root mean square normalization (Zhang and Sennrich, 2019), in float32 whatever the activations' type."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ozone.native import kernel
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _rms_norm = kernel("rms_norm")
    _fused_add_rms_norm = kernel("fused_add_rms_norm")


def _native_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    strides = x.stride()
    if strides[-1] != 1:
        x = x.contiguous()
        strides = x.stride()
    if len(strides) == 2:
        (tokens, cols), heads, head_stride = x.shape, 1, 0
        out = x.new_empty(tokens, cols)
    else:
        (tokens, heads, cols), head_stride = x.shape, strides[1]
        out = x.new_empty(tokens, heads, cols)
    _rms_norm(
        out.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        tokens,
        heads,
        cols,
        strides[0],
        head_stride,
        eps,
        DTYPES[x.dtype],
    )
    return out


@op("rms_norm", fake=lambda x, *_: x.new_empty(x.shape), native=_native_rms_norm)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * weight`` over the last dimension.

    Args:
        x: (tokens, columns) or (tokens, heads, columns), any floating type; may be a view of wider rows.
        weight: (columns,), float32.

    Returns: like `x` but dense, rounded once.
    """
    normalized = functional.rms_norm(x.to(torch.float32), weight.shape, weight, eps)
    return normalized.to(x.dtype)


def _fake_fused_add(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _native_fused_add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    x, residual = x.contiguous(), residual.contiguous()
    rows, cols = x.shape
    out, total = torch.empty_like(x), torch.empty_like(x)
    _fused_add_rms_norm(
        out.data_ptr(),
        total.data_ptr(),
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        rows,
        cols,
        eps,
        DTYPES[x.dtype],
    )
    return out, total


@op("fused_add_rms_norm", fake=_fake_fused_add, native=_native_fused_add_rms_norm)
def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum ``x + residual``, normalized and as it is.

    Returns: (normalized sum, sum), both like `x`; the sum is rounded to that type before it is normalized.
    """
    total = x + residual
    return rms_norm(total, weight, eps), total
