"""Weights of 8 bits whose inputs are not quantized: decoded to the model's type at load, as no product here
reads them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ozone.layers.checkpoint import Checkpoint, MatrixRows
from ozone.layers.linear import Linear
from ozone.quantization.unquantized import UnquantizedLinear


class WeightReader(Protocol):
    """One way to store a matrix."""

    def check(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> None:
        """`ModelFileError` where a tensor is missing or has another shape or type. Takes no memory."""
        ...

    def read(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Tensor:
        """(rows, columns) float32."""
        ...


class DecodedLinear(UnquantizedLinear):
    """An unquantized linear whose weights a reader decodes."""

    def __init__(self, reader: WeightReader) -> None:
        self._reader = reader

    def open_parts(self, layer: Linear, checkpoint: Checkpoint) -> Sequence[MatrixRows]:
        for name, rows in zip(layer.names, layer.out_sizes, strict=True):
            self._reader.check(checkpoint, name, rows, layer.in_features)
        return [
            _Decoded(self._reader, checkpoint, name, rows, layer.in_features)
            for name, rows in zip(layer.names, layer.out_sizes, strict=True)
        ]


@dataclass(frozen=True)
class _Decoded:
    """A matrix that the reader decodes as a whole."""

    reader: WeightReader
    checkpoint: Checkpoint
    name: str
    rows: int
    columns: int

    def row_chunks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        yield 0, self.reader.read(self.checkpoint, self.name, self.rows, self.columns).to(dtype)
