"""Weights as plain numbers in the model's type, converted from any floating type at load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ozone.config.model import ModelConfig
from ozone.layers.checkpoint import Checkpoint, Decoder, MatrixRows, meta_parameter, parameter
from ozone.layers.embedding import Embedding, TableMethod
from ozone.layers.linear import Linear, LinearMethod
from ozone.ops.choice import OpChoice
from ozone.ops.embedding import embedding
from ozone.ops.linear import allocate_float, float_weight_shape, linear, logits, pack_float

# Elements converted at a time: few enough to stay in a cache, many enough to outweigh a call.
_CHUNK = 1 << 18


def _decoder(dtype: torch.dtype) -> Decoder:
    size = dtype.itemsize

    def decode(data: NDArray[np.uint8], out: Tensor) -> None:
        for start in range(0, out.numel(), _CHUNK):
            # The copy makes the bytes aligned and writable, as torch wants them; files are mapped read-only.
            chunk = data[start * size : (start + _CHUNK) * size].copy()
            out[start : start + _CHUNK].copy_(torch.from_numpy(chunk).view(dtype))

    return Decoder(1, size, decode)


DECODERS = {
    "F32": _decoder(torch.float32),
    "F16": _decoder(torch.float16),
    "BF16": _decoder(torch.bfloat16),
}


class UnquantizedLinear:
    """One matrix in the model's type, packed for the kernels, and a bias in float32 where there is one."""

    def create(self, layer: Linear) -> None:
        shape = float_weight_shape(layer.out_features, layer.in_features, layer.dtype)
        layer.weight = meta_parameter(*shape, dtype=layer.dtype)
        layer.bias = meta_parameter(layer.out_features, dtype=torch.float32) if layer.has_bias else None

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        parts = self.open_parts(layer, checkpoint)
        layer.weight = parameter(_packed(parts, layer.out_features, layer.in_features, layer.dtype))
        if layer.bias is not None:
            biases = [f"{name}.bias" for name in layer.names]
            sizes = [(size,) for size in layer.out_sizes]
            layer.bias = parameter(checkpoint.read(biases, sizes, torch.float32))

    def open_parts(self, layer: Linear, checkpoint: Checkpoint) -> Sequence[MatrixRows]:
        """The layer's matrices, checked; no memory is taken for them yet."""
        shapes = [(size, layer.in_features) for size in layer.out_sizes]
        return checkpoint.open([f"{name}.weight" for name in layer.names], shapes)

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return linear(x, layer.weight, layer.bias, residual, layer.out_features)


class UnquantizedTable:
    """One matrix in the model's type: packed as a linear's where scores are computed from it, else plain, so
    that a row is in one place.
    """

    def create(self, layer: Embedding) -> None:
        packed = float_weight_shape(layer.rows, layer.columns, layer.dtype)
        shape = packed if layer.scored else (layer.rows, layer.columns)
        layer.weight = meta_parameter(*shape, dtype=layer.dtype)

    def load(self, layer: Embedding, checkpoint: Checkpoint) -> None:
        names, shapes = [f"{layer.name}.weight"], [(layer.rows, layer.columns)]
        if layer.scored:
            parts = checkpoint.open(names, shapes)
            layer.weight = parameter(_packed(parts, layer.rows, layer.columns, layer.dtype))
        else:
            layer.weight = parameter(checkpoint.read(names, shapes, layer.dtype))

    def gather(self, layer: Embedding, token_ids: Tensor) -> Tensor:
        return embedding(token_ids, layer.weight, layer.scale, layer.columns)

    def scores(self, layer: Embedding, hidden: Tensor, softcap: float | None) -> Tensor:
        return logits(hidden, layer.weight, softcap, layer.rows)


def _packed(parts: Sequence[MatrixRows], rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    """The weight of `linear` and `logits` with the matrices of `parts`, stacked."""
    packed = allocate_float("weights", rows, cols, dtype)
    start = 0
    for part in parts:
        for row, chunk in part.row_chunks(dtype):
            pack_float(packed, start + row, chunk)
        start += part.rows
    return packed


class Unquantized:
    """The scheme of checkpoints without one."""

    def __init__(self, config: ModelConfig, op: OpChoice) -> None:  # noqa: ARG002 (the protocol's signature)
        self._linear = UnquantizedLinear()
        self._table = UnquantizedTable()

    def linear_method(self, name: str) -> LinearMethod:  # noqa: ARG002 (all linears alike)
        return self._linear

    def table_method(self, name: str) -> TableMethod:  # noqa: ARG002 (all tables alike)
        return self._table
