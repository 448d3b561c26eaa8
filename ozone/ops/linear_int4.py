"""Products with 4-bit integer weights, scaled in groups of columns. Activations are floating point."""

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
    _linear_int4 = kernel("linear_int4")
    _pack_int4 = kernel("pack_int4")

# Columns of 16 rows that fill one vector.
_STEP = 8
_MOST_GROUP_COLUMNS = 2048
# What stands for zero in weights without zero points of their own.
SYMMETRIC_ZERO = 8


def allocate_int4(name: str, rows: int, cols: int) -> Tensor:
    """Memory for the weights of a `linear_int4`, which `pack_int4` fills: packed where the native library is,
    else (rows, columns), a byte for each.

    Raises: `ValueError` for more than 65,536 columns.
    """
    check_columns(cols)
    if not NATIVE:
        return allocate_tensor(name, (rows, cols), torch.uint8)
    return allocate_tensor(name, (panel_count(rows), -(-cols // _STEP), PANEL_ROWS * _STEP // 2), torch.uint8)


def pack_int4(packed: Tensor, row: int, weight: Tensor) -> None:
    """Put a part of a matrix where `linear_int4` wants it. Runs on the calling thread; parts that do not
    overlap may be packed side by side.

    Args:
        packed: from `allocate_int4`.
        row: where in the whole matrix the part's first row is.
        weight: (rows of the part, columns), uint8, 0 to 15.
    """
    if packed.dim() == 2:
        packed[row : row + len(weight)] = weight
        return
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    _pack_int4.alone(packed.data_ptr(), weight.data_ptr(), row, *weight.shape, weight.stride(0))


def allocate_int4_scales(name: str, rows: int, cols: int, group_size: int, dtype: torch.dtype) -> Tensor:
    """Memory for scales, (panels, groups, 48). `pack_int4_scales` fills it.

    Args:
        group_size: columns of a group: a multiple of 8 up to 2048, or at least `cols`.
        dtype: of the checkpoint's scales: float16, bfloat16 or float32.

    Raises: `ValueError` for another group size.
    """
    if group_size < cols and (group_size % _STEP or group_size > _MOST_GROUP_COLUMNS):
        raise ValueError(
            f"groups of {group_size} columns, where multiples of {_STEP} up to "
            f"{_MOST_GROUP_COLUMNS} can be multiplied, or one group of all"
        )
    return allocate_groups(name, rows, -(-cols // group_size), dtype)


def allocate_int4_zeros(name: str, rows: int, cols: int, group_size: int) -> Tensor:
    """Memory for zero points, (panels, groups, 48) uint8. `pack_int4_zeros` fills it."""
    return allocate_groups(name, rows, -(-cols // group_size), torch.uint8)


def pack_int4_scales(packed: Tensor, row: int, scales: Tensor) -> None:
    """Put `scales` (rows of the part, groups) at the rows from `row` on."""
    pack_groups(packed, row, scales)


def pack_int4_zeros(packed: Tensor, row: int, zeros: Tensor) -> None:
    """Put `zeros` (rows of the part, groups), integers 0 to 16, at the rows from `row` on."""
    pack_groups(packed, row, zeros)


def unpack_int4(packed: Tensor, rows: int, cols: int) -> Tensor:
    """The weights as `pack_int4` got them: (rows, columns), uint8."""
    if packed.dim() == 2:
        return packed
    words = _in_words(packed)  # (panel, step, row, parity, byte)
    columns = torch.stack((words & 15, words >> 4), -1)  # (panel, step, row, parity, byte, half)
    by_row = columns.permute(0, 2, 1, 4, 5, 3)  # (panel, row, step, byte, half, parity)
    return by_row.reshape(packed.shape[0] * PANEL_ROWS, -1)[:rows, :cols]


def _in_words(packed: Tensor) -> Tensor:
    """A step of 8 columns holds for each of the 48 rows two words of 16 bits: columns 0, 2, 4, 6 from the
    lowest bits up, and columns 1, 3, 5, 7. So one vector of words gives a pair of columns of 16 rows with
    each shift by 4 bits.
    """
    return packed.view(*packed.shape[:2], PANEL_ROWS, 2, 2)


def _native_linear_int4(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,
    group_size: int,
) -> Tensor:
    if weight.dim() == 2:
        plain: Tensor = OPS["linear_int4"].reference(
            x, weight, scales, zeros, bias, residual, rows, group_size
        )
        return plain
    tokens, cols = x.shape
    dtype = x.dtype
    out = torch.empty((tokens, rows), dtype=dtype)
    _linear_int4(
        out.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        scales.data_ptr(),
        0 if zeros is None else zeros.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        tokens,
        rows,
        cols,
        x.stride(0),
        group_size,
        DTYPES[scales.dtype],
        DTYPES[dtype],
    )
    return out


def _fake_linear_int4(
    x: Tensor,
    weight: Tensor,  # noqa: ARG001
    scales: Tensor,  # noqa: ARG001
    zeros: Tensor | None,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    rows: int,
    group_size: int,  # noqa: ARG001
) -> Tensor:
    return x.new_empty((x.shape[0], rows))


@op("linear_int4", native=_native_linear_int4, fake=_fake_linear_int4)
def linear_int4(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,
    group_size: int,
) -> Tensor:
    """``x @ ((weight - zeros) * scales).T + bias + residual``.

    Args:
        x: (tokens, columns), float32, bfloat16 or float16.
        weight: (rows, columns) uint8, 0 to 15, or packed by `pack_int4`.
        scales: (panels, groups, 48) by `pack_int4_scales`; group g is columns g * group_size and on.
        zeros: (panels, groups, 48) by `pack_int4_zeros`, or None where 8 stands for zero everywhere.
        bias: (rows,), float32.
        residual: (tokens, rows), of the type of `x`.
        group_size: columns of a group, a multiple of 8 or at least all of them; the last group may be short.

    Returns: (tokens, rows) of the type of `x`, rounded once.
    """
    cols = x.shape[1]
    integers = unpack_int4(weight, rows, cols).to(torch.float32)
    of_rows = _by_column(scales, rows, group_size, cols)
    zero_points = SYMMETRIC_ZERO if zeros is None else _by_column(zeros, rows, group_size, cols)
    total = x.to(torch.float32) @ ((integers - zero_points) * of_rows).t()
    if bias is not None:
        total += bias
    if residual is not None:
        total += residual
    return total.to(x.dtype)


def _by_column(groups: Tensor, rows: int, group_size: int, cols: int) -> Tensor:
    """(panels, groups, 48) -> (rows, columns) float32."""
    return unpack_groups(groups, rows).to(torch.float32).repeat_interleave(group_size, 1)[:, :cols]
