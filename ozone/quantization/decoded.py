"""Weights of 8 bits whose inputs are not quantized: decoded to the model's type at load, as no product here
reads them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ozone.layers.checkpoint import Checkpoint
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

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        super().load(layer, _DecodingCheckpoint(checkpoint, self._reader))


class _DecodingCheckpoint(Checkpoint):
    """A checkpoint whose weights are read through a reader."""

    def __init__(self, checkpoint: Checkpoint, reader: WeightReader) -> None:
        self.__dict__.update(checkpoint.__dict__)
        self._checkpoint = checkpoint
        self._reader = reader

    def read(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Tensor:
        if not all(name.endswith(".weight") for name in names):
            return super().read(names, shapes, dtype)
        linears = [name.removesuffix(".weight") for name in names]
        for name, (rows, columns) in zip(linears, shapes, strict=True):
            self._reader.check(self._checkpoint, name, rows, columns)
        stacked = torch.empty((sum(rows for rows, _ in shapes), shapes[0][1]), dtype=dtype)
        rows_of_parts = torch.split(stacked, [rows for rows, _ in shapes])
        for name, part in zip(linears, rows_of_parts, strict=True):
            part.copy_(self._reader.read(self._checkpoint, name, *part.shape))
        return stacked
