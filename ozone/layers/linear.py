"""Linear layers. One layer may stand for several matrices of the checkpoint that share their input (q, k
and v; gate and up), stacked by rows. How weights are stored and multiplied is up to a `LinearMethod`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ozone.layers.checkpoint import Checkpoint, LoadableLayer


class LinearMethod(Protocol):
    """One way to store and multiply weights. Implementations live in `ozone/quantization/`."""

    def create(self, layer: Linear) -> None:
        """Give the layer the parameters that this method needs, on the meta device."""
        ...

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        """Replace them by memory and fill it."""
        ...

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The product, plus `residual` of its shape: (tokens, in_features) -> (tokens, out_features)."""
        ...


class Linear(LoadableLayer):
    """``x @ weight.T + bias`` with the matrices `names` of the checkpoint, stacked.

    Attributes:
        names: checkpoint names without ``.weight`` and ``.bias``.
        out_sizes: rows of each of them; `out_features` is their sum.
        weight, bias: as the method makes them; a method may make others besides or instead.
        weight_scale, weight_zeros, input_scale, column_order: what quantized weights need besides.
        parts: linears of single matrices, where these cannot share a product.
        segments: types and rows of weights in GGUF's block types.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_scale: nn.Parameter
    weight_zeros: nn.Parameter | None
    input_scale: nn.Parameter
    column_order: nn.Parameter | None
    parts: nn.ModuleList
    segments: list[int]

    def __init__(
        self,
        names: Sequence[str],
        in_features: int,
        out_sizes: Sequence[int],
        *,
        bias: bool,
        dtype: torch.dtype,
        method: LinearMethod,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.in_features = in_features
        self.out_sizes = tuple(out_sizes)
        self.out_features = sum(out_sizes)
        self.has_bias = bias
        self.dtype = dtype
        self.method = method
        method.create(self)

    def load(self, checkpoint: Checkpoint) -> None:
        self.method.load(self, checkpoint)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.method.apply(self, x, residual)
