"""Linears with 4-bit integer weights in groups of columns; inputs keep the model's type. However a checkpoint
packs its nibbles, an `Int4Reader` hands them over in rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ozone.errors import ModelFileError
from ozone.layers.checkpoint import Checkpoint, meta_parameter, parameter
from ozone.layers.linear import Linear
from ozone.ops.gather import gather_columns
from ozone.ops.linear_int4 import (
    allocate_int4,
    allocate_int4_scales,
    allocate_int4_zeros,
    linear_int4,
    pack_int4,
    pack_int4_scales,
    pack_int4_zeros,
)
from ozone.quantization.merged import create_bias, load_bias, take_apart


@dataclass(frozen=True)
class Int4Part:
    """One matrix of a checkpoint: ``(weight - zeros) * scales``.

    Attributes:
        weight: (rows, columns) uint8, 0 to 15.
        scales: (rows, groups), of a floating type.
        zeros: (rows, groups), integers 0 to 16, or None where 8 stands for zero everywhere.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor | None


class Int4Reader(Protocol):
    """One way to store such a matrix. `group_size`: columns of a group, or None where a row is one."""

    group_size: int | None

    def check(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> None:
        """`ModelFileError` where a tensor is missing or has another shape or type. Takes no memory."""
        ...

    def groups_of_columns(self, checkpoint: Checkpoint, name: str, columns: int) -> Tensor | None:
        """The group of each column, where groups are not neighbours (act-order): (columns,) int64."""
        ...

    def read(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Int4Part: ...


class Int4Linear:
    """Weights as nibbles with the checkpoint's scales and zero points.

    Where groups were chosen in the order of activations, columns are stored group by group, and the input's
    columns are brought into that order first.
    """

    def __init__(self, reader: Int4Reader) -> None:
        self._reader = reader

    def create(self, layer: Linear) -> None:
        layer.weight = meta_parameter(layer.out_features, -(-layer.in_features // 2), dtype=torch.uint8)
        create_bias(layer)

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        reader, columns = self._reader, layer.in_features
        for name, size in zip(layer.names, layer.out_sizes, strict=True):
            reader.check(checkpoint, name, size, columns)
        orders = [self._order(checkpoint, name, columns) for name in layer.names]
        if any(not _same(order, orders[0]) for order in orders):
            for linear in take_apart(layer, [self] * len(orders)):
                linear.load(checkpoint)
            return
        layer.column_order = None if orders[0] is None else parameter(orders[0].to(torch.int32))
        layer.weight = parameter(allocate_int4("weights", layer.out_features, columns))
        row = 0
        for name, size in zip(layer.names, layer.out_sizes, strict=True):
            part = reader.read(checkpoint, name, size, columns)
            if row == 0:
                self._allocate_groups(layer, part)
            weight = part.weight if orders[0] is None else part.weight[:, orders[0]]
            pack_int4(layer.weight, row, weight)
            pack_int4_scales(layer.weight_scale, row, part.scales)
            if layer.weight_zeros is not None and part.zeros is not None:
                pack_int4_zeros(layer.weight_zeros, row, part.zeros)
            row += size
        load_bias(layer, checkpoint)

    def _allocate_groups(self, layer: Linear, part: Int4Part) -> None:
        rows, columns, group_size = layer.out_features, layer.in_features, self._group_size(layer)
        scales = allocate_int4_scales("weights", rows, columns, group_size, part.scales.dtype)
        layer.weight_scale = parameter(scales)
        zeros = None if part.zeros is None else allocate_int4_zeros("weights", rows, columns, group_size)
        layer.weight_zeros = None if zeros is None else parameter(zeros)

    def _group_size(self, layer: Linear) -> int:
        return self._reader.group_size or layer.in_features

    def _order(self, checkpoint: Checkpoint, name: str, columns: int) -> Tensor | None:
        """Columns in the order of their groups, or None where they are in it."""
        groups = self._reader.groups_of_columns(checkpoint, name, columns)
        if groups is None:
            return None
        in_order = torch.arange(columns) // (self._reader.group_size or columns)
        if not torch.equal(groups.sort().values, in_order):
            raise ModelFileError(
                f"{checkpoint.source.path}: tensor {name}.*g_idx does not give every group of "
                f"{self._reader.group_size} columns its share"
            )
        return None if torch.equal(groups, in_order) else groups.argsort(stable=True)

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if layer.column_order is not None:
            x = gather_columns(x, layer.column_order)
        return linear_int4(
            x,
            layer.weight,
            layer.weight_scale,
            layer.weight_zeros,
            layer.bias,
            residual,
            layer.out_features,
            self._group_size(layer),
        )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def nibbles(words: Tensor) -> Tensor:
    """The eight nibbles of each 32-bit word, lowest first: (...) int32 -> (..., 8) uint8."""
    # Flat in between: dimensions of one element may have any stride and yet count as contiguous.
    pairs = words.reshape(-1).view(torch.uint8).view(*words.shape, 4)
    return torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2)
