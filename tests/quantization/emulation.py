"""What a quantized checkpoint means, in plain PyTorch: dequantized weights, inputs rounded to their grid and
back, float32 products. Nothing here knows Ozone's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

Rounding = Callable[[Tensor], Tensor]
E4M3_MAX = 448.0


@dataclass(frozen=True)
class Quantized:
    """One matrix of a quantized checkpoint.

    Attributes:
        tensors: what the checkpoint stores for it, by name after the linear's own.
        weight: what that means, (rows, columns) float32.
        inputs: rounds an input to what it is multiplied as.
    """

    tensors: Mapping[str, Tensor]
    weight: Tensor
    inputs: Rounding = field(default=lambda x: x)


def fp8(x: Tensor, scale: Tensor | float) -> Tensor:
    """On the e4m3 grid times `scale`, saturated."""
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(x.dtype) * scale


def fp8_static(scale: float) -> Rounding:
    return lambda x: fp8(x, scale)


def fp8_token(x: Tensor) -> Tensor:
    return fp8(x, _largest(x) / E4M3_MAX)


def fp8_group(x: Tensor) -> Tensor:
    columns = x.shape[-1]
    groups = functional.pad(x, (0, -columns % 128)).unflatten(-1, (-1, 128))
    return fp8(groups, _largest(groups) / E4M3_MAX).flatten(-2)[..., :columns]


def int8(x: Tensor, scale: Tensor | float) -> Tensor:
    return (x / scale).round().clamp(-128, 127) * scale


def int8_static(scale: float) -> Rounding:
    return lambda x: int8(x, scale)


def int8_token(x: Tensor) -> Tensor:
    return int8(x, _largest(x) / 127)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(-1, keepdim=True).clamp(min=1e-10)


class EmulatedLinear(nn.Module):
    def __init__(self, quantized: Quantized, bias: Tensor | None) -> None:
        super().__init__()
        self.quantized = quantized
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """In float32 whatever the type of `x`, to which the result is rounded."""
        bias = None if self.bias is None else self.bias.to(torch.float32)
        rounded = self.quantized.inputs(x.to(torch.float32))
        return functional.linear(rounded, self.quantized.weight, bias).to(x.dtype)


def emulate(model: PreTrainedModel, quantized: Mapping[str, Quantized]) -> PreTrainedModel:
    """`model` itself, with the linears of these names replaced by what their quantized form means."""
    for name, matrix in quantized.items():
        parent, _, last = name.rpartition(".")
        linear = model.get_submodule(name)
        setattr(model.get_submodule(parent), last, EmulatedLinear(matrix, linear.bias))
    return model
