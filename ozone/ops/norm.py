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
    rows, cols = x.shape
    out = torch.empty_like(x)
    _rms_norm(out.data_ptr(), x.data_ptr(), weight.data_ptr(), rows, cols, x.stride(0), eps, DTYPES[x.dtype])
    return out


@op("rms_norm", native=_native_rms_norm)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * weight`` over the last dimension.

    Args:
        x: (..., columns), any floating type.
        weight: (columns,), float32.

    Returns: like `x`, rounded once.
    """
    normalized = functional.rms_norm(x.to(torch.float32), weight.shape, weight, eps)
    return normalized.to(x.dtype)


def _native_fused_add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
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


@op("fused_add_rms_norm", native=_native_fused_add_rms_norm)
def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum ``x + residual``, normalized and as it is.

    Returns: (normalized sum, sum), both like `x`; the sum is rounded to that type before it is normalized.
    """
    total = x + residual
    return rms_norm(total, weight, eps), total
