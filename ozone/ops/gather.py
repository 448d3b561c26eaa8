"""Columns in another order."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.native import kernel
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _gather_columns = kernel("gather_columns")


def _native_gather_columns(x: Tensor, order: Tensor) -> Tensor:
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, cols = x.shape
    out = torch.empty(rows, cols, dtype=x.dtype)
    _gather_columns(out.data_ptr(), x.data_ptr(), order.data_ptr(), rows, cols, x.stride(0), DTYPES[x.dtype])
    return out


@op(
    "gather_columns",
    fake=lambda x, order: x.new_empty(x.shape[0], order.shape[0]),
    native=_native_gather_columns,
)
def gather_columns(x: Tensor, order: Tensor) -> Tensor:
    """``x[:, order]``, dense: (tokens, columns) with a permutation of its columns, (columns,) int32."""
    return x.index_select(1, order)
