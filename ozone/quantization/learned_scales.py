"""Linears whose integers stay as they are and whose scales learn, and what a model needs around them so that
gradients flow through all of it: plain matrices, in PyTorch's own operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ozone.layers.checkpoint import Checkpoint, meta_parameter, parameter
from ozone.layers.embedding import Embedding, TableMethod
from ozone.layers.linear import Linear, LinearMethod


@dataclass(frozen=True)
class IntegerMatrix:
    """A matrix as its checkpoint means it, without its zero points: ``numbers * scales``.

    Attributes:
        numbers: (rows, groups, columns of a group) int8.
        scales: (rows, groups), of the type in which they are kept.
    """

    numbers: Tensor
    scales: Tensor


class LearnedScales(nn.Module):
    """The scales of one matrix, which move by factors, so that they keep their sign and Adam's steps mean the
    same for all of them.
    """

    def __init__(self, matrix: IntegerMatrix) -> None:
        super().__init__()
        self._numbers, self._start = matrix.numbers, matrix.scales
        self.logarithms = nn.Parameter(torch.zeros(matrix.scales.shape))

    def kept(self) -> Tensor:
        """(rows, groups), in the type in which they are kept."""
        return self._exact().detach().to(self._start.dtype)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """(rows, columns), of what is kept; gradients pass its rounding by."""
        exact = self._exact()
        scales = exact + (self.kept().to(torch.float32) - exact).detach()
        weight: Tensor = _Scaled.apply(self._numbers, scales, dtype)  # type: ignore[no-untyped-call]
        return weight

    def _exact(self) -> Tensor:
        return self._start.to(torch.float32) * self.logarithms.exp()


class _Scaled(torch.autograd.Function):
    """Integers times the scales of their groups, for whose gradient only the integers are kept."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(numbers)
        return (numbers * scales.unsqueeze(-1)).flatten(1).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (numbers,) = ctx.saved_tensors
        return None, (gradients[0].view_as(numbers) * numbers).sum(-1, dtype=torch.float32), None


class DifferentiableScheme:
    """A scheme in which `matrices`, by checkpoint name, learn, and whatever else is read is plain."""

    def __init__(self, matrices: Mapping[str, IntegerMatrix]) -> None:
        self._method = _DifferentiableLinear(matrices)
        self._table = _PlainTable()

    def linear_method(self, name: str) -> LinearMethod:  # noqa: ARG002 (all linears alike)
        return self._method

    def table_method(self, name: str) -> TableMethod:  # noqa: ARG002 (all tables alike)
        return self._table


class _PlainMatrix(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._weight = weight

    def weight(self, dtype: torch.dtype) -> Tensor:
        return self._weight.to(dtype)


class _DifferentiableLinear:
    def __init__(self, matrices: Mapping[str, IntegerMatrix]) -> None:
        self._matrices = matrices

    def create(self, layer: Linear) -> None:
        layer.bias = meta_parameter(layer.out_features, dtype=layer.dtype) if layer.has_bias else None

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        layer.parts = nn.ModuleList(
            LearnedScales(self._matrices[name])
            if name in self._matrices
            else _PlainMatrix(checkpoint.read([f"{name}.weight"], [(rows, layer.in_features)], layer.dtype))
            for name, rows in zip(layer.names, layer.out_sizes, strict=True)
        )
        if layer.has_bias:
            names, sizes = [f"{name}.bias" for name in layer.names], [(rows,) for rows in layer.out_sizes]
            layer.bias = parameter(checkpoint.read(names, sizes, layer.dtype))

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        parts = cast("list[LearnedScales | _PlainMatrix]", list(layer.parts))
        products = [functional.linear(x, part.weight(layer.dtype)) for part in parts]
        output = products[0] if len(products) == 1 else torch.cat(products, 1)
        for addend in (layer.bias, residual):
            output = output if addend is None else output + addend
        return output


class _PlainTable:
    def create(self, layer: Embedding) -> None:
        layer.weight = meta_parameter(layer.rows, layer.columns, dtype=layer.dtype)

    def load(self, layer: Embedding, checkpoint: Checkpoint) -> None:
        shape = (layer.rows, layer.columns)
        layer.weight = parameter(checkpoint.read([f"{layer.name}.weight"], [shape], layer.dtype))

    def gather(self, layer: Embedding, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, layer.weight) * layer.scale

    def scores(self, layer: Embedding, hidden: Tensor, softcap: float | None) -> Tensor:
        scores = functional.linear(hidden, layer.weight).to(torch.float32)
        return scores if softcap is None else softcap * (scores / softcap).tanh()
