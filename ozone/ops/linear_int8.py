"""Products of int8 activations with int8 weights: exact sums, one scale per weight row and per token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ozone.native import kernel
from ozone.ops.panels import PANEL_ROWS, allocate_tensor, panel_count
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _linear_int8 = kernel("linear_int8")
    _pack_int8 = kernel("pack_int8")

_STEP = 4


def pack_int8(parts: Sequence[Tensor]) -> Tensor:
    """Weights as `linear_int8` wants them.

    Args:
        parts: int8 matrices of (rows, columns) that share their input, to be stacked by rows. They may be
            given up afterwards.

    Returns: uint8 of (panels, steps, 48, 4), each weight 128 more than it was and the last panel and step
        padded; without the native library the stacked matrix as it is.
    """
    cols = parts[0].shape[1]
    if not NATIVE:
        return torch.cat(list(parts))
    panels = panel_count(sum(len(part) for part in parts))
    packed = allocate_tensor("weights", (panels, -(-cols // _STEP), PANEL_ROWS, _STEP), torch.uint8)
    row = 0
    for part in parts:
        rows = part.contiguous()
        _pack_int8.alone(packed.data_ptr(), rows.data_ptr(), row, len(rows), cols, cols)
        row += len(rows)
    return packed


def unpack_int8(weight: Tensor, rows: int, cols: int) -> Tensor:
    """The int8 matrix of (rows, cols) in what `pack_int8` returned."""
    if weight.ndim == 2:
        return weight
    plain = weight.transpose(1, 2).reshape(weight.shape[0] * PANEL_ROWS, -1)[:rows, :cols]
    return (plain ^ 128).view(torch.int8)


def _native_linear_int8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    tokens, cols = x.shape
    out = torch.empty((tokens, rows), dtype=dtype)
    _linear_int8(
        out.data_ptr(),
        x.data_ptr(),
        x_scale.data_ptr(),
        weight.data_ptr(),
        weight_scale.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        tokens,
        rows,
        cols,
        x_scale.dim() - 1,
        DTYPES[dtype],
    )
    return out


def _fake_linear_int8(
    x: Tensor,
    x_scale: Tensor,  # noqa: ARG001
    weight: Tensor,  # noqa: ARG001
    weight_scale: Tensor,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty((x.shape[0], rows), dtype=dtype)


@op("linear_int8", native=_native_linear_int8, fake=_fake_linear_int8)
def linear_int8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    """``(x @ weight.T) * weight_scale * x_scale + bias + residual``, rounded once.

    Args:
        x: (tokens, columns) int8, dense.
        x_scale: float32, (1,) for one scale of all tokens or (tokens, 1).
        weight: what `pack_int8` returned.
        weight_scale: (rows,) float32.
        bias: (rows,) float32.
        residual: (tokens, rows) of type `dtype`, dense.
        rows: rows of the weight, which may be padded.
        dtype: of the result.

    Returns: (tokens, rows).
    """
    plain = unpack_int8(weight, rows, x.shape[1])
    # Sums of integers below 2^53 are exact in float64, and its products are the fast ones.
    sums = (x.to(torch.float64) @ plain.to(torch.float64).t()).to(torch.float32)
    result = sums * weight_scale * x_scale
    if bias is not None:
        result += bias
    if residual is not None:
        result += residual
    return result.to(dtype)
