"""Linears with e4m3 weights and inputs: however a checkpoint names their parts, this is what is computed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ozone.layers.checkpoint import Checkpoint, meta_parameter, parameter, stored
from ozone.layers.linear import Linear
from ozone.ops.choice import OpChoice
from ozone.ops.linear_fp8 import (
    GROUP,
    allocate_fp8,
    allocate_fp8_block_scales,
    linear_fp8,
    pack_fp8,
    pack_fp8_block_scales,
)
from ozone.quantization.merged import create_bias, load_bias, take_apart
from ozone.quantization.scales import input_scale, row_scales

WeightScales = Literal["tensor", "channel", "block"]
InputScales = Literal["static", "token", "group"]

_QUANTIZE = {
    "static": "quantize_fp8_static",
    "token": "quantize_fp8_token",
    "group": "quantize_fp8_group",
}


class Fp8Linear:
    """Weights as bytes of e4m3, an input that is quantized to e4m3 by an op of its own, exact products.

    Args:
        weights: what shares a scale: the whole matrix, a row, or a block of 128 x 128.
        inputs: the same of the input: everything, by a scale in the checkpoint; each token, or 128 columns of
            each token, by their largest magnitude.
        scale: the checkpoint's name of the weights' scales.
    """

    def __init__(
        self, op: OpChoice, *, weights: WeightScales, inputs: InputScales, scale: str = "weight_scale"
    ) -> None:
        self._weights = weights
        self._inputs = inputs
        self._scale = scale
        self._quantize = op(_QUANTIZE[inputs])
        self._pad = op("pad")

    def create(self, layer: Linear) -> None:
        layer.weight = meta_parameter(layer.out_features, layer.in_features, dtype=torch.float8_e4m3fn)
        create_bias(layer)

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        if self._inputs == "static":
            scales = [input_scale(checkpoint, f"{name}.input_scale") for name in layer.names]
            if len(set(scales)) > 1:
                for part in take_apart(layer, [self] * len(scales)):
                    part.load(checkpoint)
                return
            layer.input_scale = parameter(torch.tensor(scales[:1]))
        raws = [
            checkpoint.raw_of_type(f"{name}.weight", ["F8_E4M3"], (size, layer.in_features))
            for name, size in zip(layer.names, layer.out_sizes, strict=True)
        ]
        scales_of_rows = [
            self._part_scales(checkpoint, f"{name}.{self._scale}", size, layer.in_features)
            for name, size in zip(layer.names, layer.out_sizes, strict=True)
        ]
        packed = allocate_fp8("weights", layer.out_features, self._columns(layer))
        row = 0
        for raw in raws:
            pack_fp8(packed, row, _padded(stored(raw), self._columns(layer)))
            row += raw.shape[0]
        layer.weight = parameter(packed)
        layer.weight_scale = parameter(self._joined_scales(layer, scales_of_rows))
        load_bias(layer, checkpoint)

    def _part_scales(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Tensor:
        if self._weights == "block":
            return checkpoint.numbers(name, (-(-rows // GROUP), -(-columns // GROUP)))
        return row_scales(checkpoint, name, rows, per_row=self._weights == "channel")

    def _joined_scales(self, layer: Linear, parts: list[Tensor]) -> Tensor:
        if self._weights != "block":
            return torch.cat(parts)
        packed = allocate_fp8_block_scales("weights", layer.out_features, layer.in_features)
        row = 0
        for size, scales in zip(layer.out_sizes, parts, strict=True):
            pack_fp8_block_scales(packed, row, size, scales)
            row += size
        return packed

    def _columns(self, layer: Linear) -> int:
        """Columns as multiplied: groups of the input are whole, so that a short one is filled with zeros."""
        return -(-layer.in_features // GROUP) * GROUP if self._inputs == "group" else layer.in_features

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self._inputs == "static":
            scale: Tensor = layer.input_scale
            quantized = self._quantize(x, scale)
        elif self._inputs == "token":
            quantized, scale = self._quantize(x)
        else:
            if layer.in_features % GROUP:
                x = self._pad(x, GROUP)
            quantized, scale = self._quantize(x, GROUP)
        return linear_fp8(
            quantized,
            scale,
            layer.weight,
            layer.weight_scale,
            layer.bias,
            residual,
            layer.out_features,
            layer.dtype,
        )


def _padded(weight: Tensor, columns: int) -> Tensor:
    missing = columns - weight.shape[1]
    if not missing:
        return weight
    return torch.nn.functional.pad(weight.view(torch.uint8), (0, missing)).view(weight.dtype)
