"""Quantization of activations: small integers or floats, and the scales that give the numbers back."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.ops.registry import op

# Columns of one sum: the finest that a weight format has an offset for.
SUM_COLS = 16
_MOST_INT8 = 127.0
_LEAST_SCALE = torch.finfo(torch.float32).tiny


@op("quantize_int8_group")
def quantize_int8_group(x: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integers of -127 to 127 with one scale for each token and `group` columns, and their sums.

    Args:
        x: (tokens, columns), any floating type. Columns are a multiple of `group`, which is one of 16.

    Returns: (int8 like `x`; its scales, float32 (tokens, columns / group); sums of 16 columns of it each,
        int16 (tokens, columns / 16)).
    """
    tokens, cols = x.shape
    groups = x.to(torch.float32).view(tokens, cols // group, group)
    scale = (groups.abs().amax(-1) / _MOST_INT8).clamp_min(_LEAST_SCALE)
    scaled = (groups * scale.reciprocal().unsqueeze(-1)).round().clamp(-_MOST_INT8, _MOST_INT8)
    integers = scaled.to(torch.int8).view(tokens, cols)
    sums = integers.view(tokens, cols // SUM_COLS, SUM_COLS).sum(-1, dtype=torch.int16)
    return integers, scale, sums
