"""Token embeddings."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ozone.ops.registry import op


@op("embedding")
def embedding(token_ids: Tensor, weight: Tensor, scale: float, cols: int) -> Tensor:  # noqa: ARG001
    """Rows of `weight` times `scale`: (tokens,) integers by (vocabulary, cols) -> (tokens, cols)."""
    rows = functional.embedding(token_ids, weight)
    return rows if scale == 1.0 else rows * scale
