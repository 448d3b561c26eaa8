"""The panel layout of packed weights, `csrc/kernels/panel.h`, and of numbers that groups of columns share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ozone.native import allocate

PANEL_ROWS = 48
# Kernels that decode weights keep activations of up to this many columns in their scratch memory.
MOST_COLUMNS = 1 << 16


def panel_count(rows: int) -> int:
    return -(-rows // PANEL_ROWS)


def allocate_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros of that shape in a memory region of the native library, named for what it holds."""
    memory = allocate(name, math.prod(shape) * dtype.itemsize)
    return torch.from_numpy(memory).view(dtype).view(shape)


def check_columns(cols: int) -> None:
    """Raises: `ValueError` for more columns than kernels that decode weights take."""
    if cols > MOST_COLUMNS:
        raise ValueError(f"{cols:,} columns, where at most {MOST_COLUMNS:,} can be multiplied")


def allocate_groups(name: str, rows: int, groups: int, dtype: torch.dtype) -> Tensor:
    """Memory for a number for each row and group of columns: (panels, groups, 48)."""
    return allocate_tensor(name, (panel_count(rows), groups, PANEL_ROWS), dtype)


def pack_groups(packed: Tensor, row: int, values: Tensor) -> None:
    """Put `values` (rows, groups) at the rows from `row` on of `packed` (panels, groups, 48)."""
    panels, places = places_of_rows(row, len(values))
    packed[panels, :, places] = values.to(packed.dtype)


def unpack_groups(packed: Tensor, rows: int) -> Tensor:
    """The numbers of `pack_groups`, (rows, groups)."""
    return packed.transpose(1, 2).flatten(0, 1)[:rows]


def places_of_rows(row: int, count: int) -> tuple[Tensor, Tensor]:
    """The panel, and the place in that panel, of each of `count` rows from `row` on."""
    at = torch.arange(row, row + count)
    return at // PANEL_ROWS, at % PANEL_ROWS
