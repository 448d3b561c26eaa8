"""Schemes that choose a method for each linear by its name, and merged linears whose parts differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ozone.layers.checkpoint import Checkpoint, meta_parameter, parameter
from ozone.layers.embedding import TableMethod
from ozone.layers.linear import Linear, LinearMethod
from ozone.quantization.unquantized import UnquantizedLinear, UnquantizedTable


class SchemeByName(ABC):
    """A scheme that quantizes some linears and no tables. See `ozone.quantization.Scheme`."""

    def __init__(self) -> None:
        self.unquantized: LinearMethod = UnquantizedLinear()
        self._by_name = _ByName(self.method)
        self._table = UnquantizedTable()

    @abstractmethod
    def method(self, name: str) -> LinearMethod:
        """The method for one matrix of the checkpoint: the same object for all that are stored alike."""

    def linear_method(self, name: str) -> LinearMethod:  # noqa: ARG002 (a layer knows all of its names)
        return self._by_name

    def table_method(self, name: str) -> TableMethod:  # noqa: ARG002 (all tables alike)
        return self._table


class _ByName:
    """The method that `choose` gives for a linear's checkpoint name. A merged linear whose parts are stored
    differently becomes products apart.
    """

    def __init__(self, choose: Callable[[str], LinearMethod]) -> None:
        self._choose = choose

    def create(self, layer: Linear) -> None:
        methods = [self._choose(name) for name in layer.names]
        if any(method is not methods[0] for method in methods):
            take_apart(layer, methods)
            return
        layer.method = methods[0]
        layer.method.create(layer)

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        raise NotImplementedError("the layer has got the method that was chosen")

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        raise NotImplementedError("the layer has got the method that was chosen")


def take_apart(layer: Linear, methods: Sequence[LinearMethod]) -> list[Linear]:
    """Make a merged linear one of several products, one for each checkpoint matrix; returns them."""
    parts = [
        Linear([name], layer.in_features, [size], bias=layer.has_bias, dtype=layer.dtype, method=method)
        for name, size, method in zip(layer.names, layer.out_sizes, methods, strict=True)
    ]
    layer.parts = nn.ModuleList(parts)
    layer.method = _Apart()
    return parts


class _Apart:
    """The results of `layer.parts`, side by side."""

    def create(self, layer: Linear) -> None:
        """Nothing: `take_apart` has made the parts."""

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        """Nothing: parts are layers, and load by themselves."""

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        joined = torch.cat([part(x) for part in layer.parts], dim=1)
        return joined if residual is None else joined + residual


def create_bias(layer: Linear) -> None:
    """The promise of a float32 bias, where the layer has one."""
    layer.bias = meta_parameter(layer.out_features, dtype=torch.float32) if layer.has_bias else None


def load_bias(layer: Linear, checkpoint: Checkpoint) -> None:
    """The bias, where the layer has one."""
    if layer.bias is not None:
        names = [f"{name}.bias" for name in layer.names]
        layer.bias = parameter(checkpoint.read(names, [(size,) for size in layer.out_sizes], torch.float32))
