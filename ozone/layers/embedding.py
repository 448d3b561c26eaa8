"""The embedding table and the output head, which may be the same matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ozone.layers.checkpoint import Checkpoint, LoadableLayer, meta_parameter, parameter
from ozone.ops.embedding import embedding
from ozone.ops.linear import logits


class Embedding(LoadableLayer):
    """Rows of a (vocabulary, columns) table, times `scale` rounded to the table's type."""

    def __init__(self, name: str, rows: int, columns: int, *, dtype: torch.dtype, scale: float = 1.0) -> None:
        super().__init__()
        self.name = name
        self.scale = float(torch.tensor(scale, dtype=dtype, device="cpu"))
        self.weight = meta_parameter(rows, columns, dtype=dtype)

    def load(self, checkpoint: Checkpoint) -> None:
        shape = tuple(self.weight.shape)
        self.weight = parameter(checkpoint.read([f"{self.name}.weight"], [shape], self.weight.dtype))

    def forward(self, token_ids: Tensor) -> Tensor:
        return embedding(token_ids, self.weight, self.scale)


class LMHead(nn.Module):
    """Scores of every token of the vocabulary, float32: products with the rows of `table`, which is the
    embedding's own where the two are tied.
    """

    def __init__(self, table: Embedding, softcap: float | None) -> None:
        super().__init__()
        self.table = table
        self.softcap = softcap

    def forward(self, hidden: Tensor) -> Tensor:
        return logits(hidden, self.table.weight, self.softcap)
