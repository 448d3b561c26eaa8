"""The embedding table and the output head, which may be the same matrix. How a table is stored, gathered
from and multiplied with is up to a `TableMethod`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ozone.layers.checkpoint import Checkpoint, LoadableLayer


class TableMethod(Protocol):
    """One way to store a vocabulary's rows. Implementations live in `ozone/quantization/`."""

    def create(self, layer: Embedding) -> None:
        """Give the layer the parameters that this method needs, on the meta device."""
        ...

    def load(self, layer: Embedding, checkpoint: Checkpoint) -> None:
        """Replace them by memory and fill it."""
        ...

    def gather(self, layer: Embedding, token_ids: Tensor) -> Tensor:
        """Rows times `layer.scale`: (tokens,) int32 or int64 -> (tokens, columns) of `layer.dtype`."""
        ...

    def scores(self, layer: Embedding, hidden: Tensor, softcap: float | None) -> Tensor:
        """Products with every row, soft-capped if asked: (tokens, columns) -> (tokens, rows) float32."""
        ...


class Embedding(LoadableLayer):
    """Rows of a (vocabulary, columns) table, times `scale` rounded to the model's type.

    Attributes:
        name: checkpoint name without ``.weight``.
        scored: whether products with the rows are computed, as an output head's and a tied table's are. Rows
            of the others are only gathered.
        weight: as the method makes it; a method may make other parameters besides or instead.
        segments: type and rows of a table in one of GGUF's block types.
    """

    weight: nn.Parameter
    segments: list[int]

    def __init__(
        self,
        name: str,
        rows: int,
        columns: int,
        *,
        dtype: torch.dtype,
        method: TableMethod,
        scale: float = 1.0,
        scored: bool = True,
    ) -> None:
        super().__init__()
        self.name = name
        self.rows = rows
        self.columns = columns
        self.dtype = dtype
        self.scale = float(torch.tensor(scale, dtype=dtype, device="cpu"))
        self.scored = scored
        self.method = method
        method.create(self)

    def load(self, checkpoint: Checkpoint) -> None:
        self.method.load(self, checkpoint)

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.method.gather(self, token_ids)


class LMHead(nn.Module):
    """Scores of every token of the vocabulary, float32: products with the rows of `table`, which is the
    embedding's own where the two are tied.
    """

    def __init__(self, table: Embedding, softcap: float | None) -> None:
        super().__init__()
        self.table = table
        self.softcap = softcap

    def forward(self, hidden: Tensor) -> Tensor:
        return self.table.method.scores(self.table, hidden, self.softcap)
