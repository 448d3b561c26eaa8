"""Root mean square normalization (Zhang and Sennrich, 2019), in float32 whatever the activations' type."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ozone.ops.registry import op


@op("rms_norm")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * weight`` over the last dimension.

    Args:
        x: (..., columns), any floating type.
        weight: (columns,), float32.

    Returns: like `x`, rounded once.
    """
    normalized = functional.rms_norm(x.to(torch.float32), weight.shape, weight, eps)
    return normalized.to(x.dtype)


@op("fused_add_rms_norm")
def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum ``x + residual``, normalized and as it is.

    Returns: (normalized sum, sum), both like `x`; the sum is rounded to that type before it is normalized.
    """
    total = x + residual
    return rms_norm(total, weight, eps), total
