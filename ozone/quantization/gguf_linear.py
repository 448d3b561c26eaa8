"""Linears and tables in GGUF's block types, as small in memory as in the file.

Inputs are quantized to int8 in groups of 32 columns, as llama.cpp does it. Some matrices are dequantized at
load instead: those of types that `linear_gguf` does not have (Q2_K, Q3_K), and all of them where the native
library is not built, or where the model is in float32, which asks for the numbers of the file and no others.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ozone.config.model import ModelConfig
from ozone.layers.checkpoint import Checkpoint, meta_parameter, parameter
from ozone.layers.embedding import Embedding, TableMethod
from ozone.layers.linear import Linear, LinearMethod
from ozone.ops.choice import OpChoice
from ozone.ops.linear_gguf import (
    GGUF_PACKINGS,
    GROUP_COLS,
    embedding_gguf,
    gguf_segments,
    linear_gguf,
    logits_gguf,
    pack_gguf,
    packed_gguf_shape,
)
from ozone.ops.registry import NATIVE
from ozone.quantization.merged import SchemeByName, create_bias, load_bias
from ozone.quantization.unquantized import UnquantizedLinear, UnquantizedTable

# Models of these types compute with the numbers of the file.
EXACT_DTYPES = frozenset({torch.float32})


class GGUFLinear:
    """Matrices of `linear_gguf`'s types as one product, whatever type each has."""

    def __init__(self, types: dict[str, str], op: OpChoice) -> None:
        self._types = types
        self._quantize = op("quantize_int8_group")

    def create(self, layer: Linear) -> None:
        if layer.dtype in EXACT_DTYPES:
            layer.method = UnquantizedLinear()
            layer.method.create(layer)
            return
        parts = [(self._types[name], size) for name, size in zip(layer.names, layer.out_sizes, strict=True)]
        layer.segments = gguf_segments(parts)
        shape = packed_gguf_shape(layer.segments, layer.in_features)
        layer.weight = meta_parameter(*shape, dtype=torch.uint8)
        create_bias(layer)

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        parts = [
            _blocks(checkpoint, name, self._types[name], (size, layer.in_features))
            for name, size in zip(layer.names, layer.out_sizes, strict=True)
        ]
        layer.weight = parameter(pack_gguf(parts, layer.in_features))
        load_bias(layer, checkpoint)

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        quantized, scale, sums = self._quantize(x, GROUP_COLS)
        return linear_gguf(
            quantized,
            scale,
            sums,
            layer.weight,
            layer.segments,
            layer.bias,
            residual,
            layer.out_features,
            layer.dtype,
        )


class GGUFTable:
    """A table of one of `linear_gguf`'s types: rows are dequantized when they are gathered, and scores are
    products as in a linear.
    """

    def __init__(self, types: dict[str, str], op: OpChoice) -> None:
        self._types = types
        self._quantize = op("quantize_int8_group")

    def create(self, layer: Embedding) -> None:
        if layer.dtype in EXACT_DTYPES:
            layer.method = UnquantizedTable()
            layer.method.create(layer)
            return
        layer.segments = gguf_segments([(self._types[layer.name], layer.rows)])
        shape = packed_gguf_shape(layer.segments, layer.columns)
        layer.weight = meta_parameter(*shape, dtype=torch.uint8)

    def load(self, layer: Embedding, checkpoint: Checkpoint) -> None:
        table = _blocks(checkpoint, layer.name, self._types[layer.name], (layer.rows, layer.columns))
        layer.weight = parameter(pack_gguf([table], layer.columns))

    def gather(self, layer: Embedding, token_ids: Tensor) -> Tensor:
        return embedding_gguf(
            token_ids, layer.weight, layer.segments, layer.scale, layer.columns, layer.dtype
        )

    def scores(self, layer: Embedding, hidden: Tensor, softcap: float | None) -> Tensor:
        quantized, scale, sums = self._quantize(hidden, GROUP_COLS)
        return logits_gguf(quantized, scale, sums, layer.weight, layer.segments, softcap, layer.rows)


def _blocks(
    checkpoint: Checkpoint, name: str, kind: str, shape: tuple[int, int]
) -> tuple[str, NDArray[np.uint8]]:
    return kind, checkpoint.raw_of_type(f"{name}.weight", [kind], shape).data


class GGUF(SchemeByName):
    """The scheme of GGUF files with quantized matrices."""

    def __init__(self, config: ModelConfig, op: OpChoice) -> None:
        super().__init__()
        self._types: dict[str, str] = dict(config.quantization or {}).get("types", {})
        self._native_linear, self._native_table = GGUFLinear(self._types, op), GGUFTable(self._types, op)

    def method(self, name: str) -> LinearMethod:
        return self._native_linear if self._is_native(name) else self.unquantized

    def table_method(self, name: str) -> TableMethod:
        return self._native_table if self._is_native(name) else super().table_method(name)

    def _is_native(self, name: str) -> bool:
        return NATIVE and self._types.get(name) in GGUF_PACKINGS
