"""Products of 8-bit floating point numbers, e4m3 (Micikevicius et al., 2022), exact on their grid; sums are
float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.native import kernel
from ozone.ops.panels import (
    PANEL_ROWS,
    allocate_groups,
    allocate_tensor,
    check_columns,
    pack_groups,
    panel_count,
    unpack_groups,
)
from ozone.ops.registry import DTYPES, NATIVE, OPS, op

if NATIVE:
    _linear_fp8 = kernel("linear_fp8")
    _pack_fp8 = kernel("pack_fp8")

# Columns that share a scale in block-scaled weights and group-scaled activations.
GROUP = 128
_E4M3 = torch.float8_e4m3fn
_STEP = 4


def allocate_fp8(name: str, rows: int, cols: int) -> Tensor:
    """Memory for the weights of a `linear_fp8`, which `pack_fp8` fills: packed where the native library is,
    else (rows, columns).

    Raises: `ValueError` for more than 65,536 columns.
    """
    check_columns(cols)
    if not NATIVE:
        return allocate_tensor(name, (rows, cols), _E4M3)
    return allocate_tensor(name, (panel_count(rows), -(-cols // _STEP), PANEL_ROWS * _STEP), _E4M3)


def pack_fp8(packed: Tensor, row: int, weight: Tensor) -> None:
    """Put a part of a matrix where `linear_fp8` wants it. Runs on the calling thread; parts that do not
    overlap may be packed side by side.

    Args:
        packed: from `allocate_fp8`.
        row: where in the whole matrix the part's first row is.
        weight: (rows of the part, columns), e4m3 or its bytes.
    """
    if packed.dim() == 2:
        packed.view(torch.uint8)[row : row + len(weight)] = weight.view(torch.uint8)
        return
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    _pack_fp8.alone(packed.data_ptr(), weight.data_ptr(), row, *weight.shape, weight.stride(0))


def allocate_fp8_block_scales(name: str, rows: int, cols: int) -> Tensor:
    """Memory for scales of 128 x 128 blocks, (panels, groups, 48). `pack_fp8_block_scales` fills it."""
    return allocate_groups(name, rows, -(-cols // GROUP), torch.float32)


def pack_fp8_block_scales(packed: Tensor, row: int, rows: int, scales: Tensor) -> None:
    """Put the scales of a part of a matrix where `linear_fp8` wants them, one for each row and group.

    Args:
        packed: from `allocate_fp8_block_scales`.
        row: where in the whole matrix the part's first row is.
        rows: rows of the part.
        scales: (ceil(rows / 128), ceil(columns / 128)).
    """
    pack_groups(packed, row, scales.repeat_interleave(GROUP, 0)[:rows])


def unpack_fp8(packed: Tensor, rows: int, cols: int) -> Tensor:
    """The weights as `pack_fp8` got them: (rows, columns), e4m3."""
    if packed.dim() == 2:
        return packed
    # (panel, step, vector, lane, pair, row, column) -> (panel, vector, lane, row, step, pair, column)
    by_row = _in_lanes(packed.view(torch.uint8)).permute(0, 2, 3, 5, 1, 4, 6)
    return by_row.reshape(packed.shape[0] * PANEL_ROWS, -1)[:rows, :cols].view(_E4M3)


def _in_lanes(packed: Tensor) -> Tensor:
    """A step of 4 columns holds 3 vectors of 16 rows in 4 lanes; a lane holds 2 pairs of columns of 4 rows,
    so that to interleave the low and the high bytes of decoded numbers gives the pairs of 16 rows in order.
    """
    return packed.view(*packed.shape[:2], 3, 4, 2, 4, 2)


def _native_linear_fp8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    if weight.dim() == 2:
        plain: Tensor = OPS["linear_fp8"].reference(
            x, x_scale, weight, weight_scale, bias, residual, rows, dtype
        )
        return plain
    tokens, cols = x.shape
    out = torch.empty((tokens, rows), dtype=dtype)
    x_scales = x_scale.shape[-1]
    _linear_fp8(
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
        x_scales if x_scale.dim() == 2 else 0,
        x_scales > 1,
        weight_scale.dim() > 1,
        DTYPES[dtype],
    )
    return out


def _fake_linear_fp8(
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


@op("linear_fp8", native=_native_linear_fp8, fake=_fake_linear_fp8)
def linear_fp8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    """``(x * x_scale) @ (weight * weight_scale).T + bias + residual``, products on the e4m3 grid.

    Args:
        x: (tokens, columns), e4m3.
        x_scale: float32: (1,) for all, (tokens, 1), or (tokens, ceil(columns / 128)).
        weight: (rows, columns) e4m3, or packed by `pack_fp8`.
        weight_scale: float32: (rows,), or (panels, ceil(columns / 128), 48) by `pack_fp8_block_scales`.
        bias: (rows,), float32.
        residual: (tokens, rows), of type `dtype`.

    Returns: (tokens, rows) of type `dtype`, rounded once.
    """
    cols = x.shape[1]
    numbers = x.to(torch.float32)
    matrix = unpack_fp8(weight, rows, cols).to(torch.float32)
    if weight_scale.dim() == 1 and (x_scale.dim() == 1 or x_scale.shape[1] == 1):
        total = numbers @ matrix.t() * x_scale * weight_scale
    else:
        total = numbers.new_zeros((x.shape[0], rows))
        of_rows = weight_scale[:, None] if weight_scale.dim() == 1 else unpack_groups(weight_scale, rows)
        of_tokens = x_scale.view(-1, 1) if x_scale.dim() == 1 else x_scale
        for group, start in enumerate(range(0, cols, GROUP)):
            part = numbers[:, start : start + GROUP] @ matrix[:, start : start + GROUP].t()
            total += part * _column(of_tokens, group)[:, None] * _column(of_rows, group)
    if bias is not None:
        total += bias
    if residual is not None:
        total += residual
    return total.to(dtype)


def _column(scales: Tensor, group: int) -> Tensor:
    """The scales of one group, where there may be only one for all."""
    return scales[:, group if scales.shape[1] > 1 else 0]
