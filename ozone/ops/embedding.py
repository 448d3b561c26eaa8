"""Token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ozone.native import kernel
from ozone.ops.linear import unpack_float
from ozone.ops.panels import PANEL_ROWS
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _embedding = kernel("embedding")


def _native_embedding(token_ids: Tensor, weight: Tensor, scale: float, cols: int) -> Tensor:
    (tokens,) = token_ids.shape
    packed = weight.dim() == 4
    out = weight.new_empty((tokens, cols))
    _embedding(
        out.data_ptr(),
        token_ids.data_ptr(),
        weight.data_ptr(),
        tokens,
        weight.shape[0] * PANEL_ROWS if packed else weight.shape[0],
        cols,
        token_ids.dtype is torch.int64,
        packed,
        DTYPES[weight.dtype],
        scale,
    )
    return out


def _fake_embedding(token_ids: Tensor, weight: Tensor, scale: float, cols: int) -> Tensor:  # noqa: ARG001
    return weight.new_empty((token_ids.shape[0], cols))


@op("embedding", native=_native_embedding, fake=_fake_embedding)
def embedding(token_ids: Tensor, weight: Tensor, scale: float, cols: int) -> Tensor:
    """Rows of `weight` times `scale`: (tokens,) by (vocabulary, cols) -> (tokens, cols), rounded once.

    Args:
        token_ids: int32 or int64, dense. The reference raises `IndexError` for an id that the table does not
            have, the native function returns a row of NaN for it.
        weight: plain and dense, or packed as `linear` wants it.
    """
    plain = unpack_float(weight, weight.shape[0] * PANEL_ROWS, cols)
    rows = functional.embedding(token_ids, plain)
    return rows if scale == 1.0 else rows * scale
