"""Linears with int8 weights and inputs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ozone.layers.checkpoint import Checkpoint, meta_parameter, parameter, stored
from ozone.layers.linear import Linear
from ozone.ops.choice import OpChoice
from ozone.ops.linear_int8 import linear_int8, pack_int8
from ozone.quantization.merged import create_bias, load_bias, take_apart
from ozone.quantization.scales import input_scale, row_scales

InputScales = Literal["static", "token"]

_QUANTIZE = {"static": "quantize_int8_static", "token": "quantize_int8_token"}


class Int8Linear:
    """Weights as bytes, an input that is quantized to int8 by an op of its own, exact sums.

    Args:
        per_row: the checkpoint has a scale for each row of weights, else one for the matrix.
        inputs: what shares a scale: everything, by a scale in the checkpoint, or each token.
    """

    def __init__(self, op: OpChoice, *, per_row: bool, inputs: InputScales) -> None:
        self._per_row = per_row
        self._inputs = inputs
        self._quantize = op(_QUANTIZE[inputs])

    def create(self, layer: Linear) -> None:
        layer.weight = meta_parameter(layer.out_features, layer.in_features, dtype=torch.int8)
        create_bias(layer)

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        if self._inputs == "static":
            scales = [input_scale(checkpoint, f"{name}.input_scale") for name in layer.names]
            if len(set(scales)) > 1:
                for part in take_apart(layer, [self] * len(scales)):
                    part.load(checkpoint)
                return
            layer.input_scale = parameter(torch.tensor(scales[:1]))
        sizes = dict(zip(layer.names, layer.out_sizes, strict=True))
        raws = [
            checkpoint.raw_of_type(f"{name}.weight", ["I8"], (size, layer.in_features))
            for name, size in sizes.items()
        ]
        row_scale = [
            row_scales(checkpoint, f"{name}.weight_scale", size, per_row=self._per_row)
            for name, size in sizes.items()
        ]
        layer.weight = parameter(pack_int8([stored(raw) for raw in raws]))
        layer.weight_scale = parameter(torch.cat(row_scale))
        load_bias(layer, checkpoint)

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self._inputs == "static":
            scale: Tensor = layer.input_scale
            quantized = self._quantize(x, scale)
        else:
            quantized, scale = self._quantize(x)
        return linear_int8(
            quantized,
            scale,
            layer.weight,
            layer.weight_scale,
            layer.bias,
            residual,
            layer.out_features,
            layer.dtype,
        )
