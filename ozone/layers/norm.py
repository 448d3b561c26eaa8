"""RMS normalization with a learned weight."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.layers.checkpoint import Checkpoint, LoadableLayer, meta_parameter, parameter
from ozone.layers.options import BuildOptions


class RMSNorm(LoadableLayer):
    """Normalizes the last dimension. The weight is kept in float32, with the offset of families that
    multiply by ``1 + weight`` already added.
    """

    def __init__(
        self, name: str, size: int, eps: float, options: BuildOptions, *, offset: bool = False
    ) -> None:
        super().__init__()
        self.name = name
        self.eps = eps
        self.offset = offset
        self.rms_norm = options.op("rms_norm")
        self.add = options.op("add")
        self.weight = meta_parameter(size, dtype=torch.float32)

    def load(self, checkpoint: Checkpoint) -> None:
        weight = checkpoint.read([f"{self.name}.weight"], [tuple(self.weight.shape)], torch.float32)
        self.weight = parameter(weight + 1.0 if self.offset else weight)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """
        Returns: ``x + residual`` normalized, and the sum itself, which is the new residual. Without a
        residual, before the first layer, the sum is `x`.
        """
        if residual is None:
            return self.normalize(x), x
        total = self.add(x, residual)
        return self.normalize(total), total

    def normalize(self, x: Tensor) -> Tensor:
        """`x` normalized."""
        normalized: Tensor = self.rms_norm(x, self.weight, self.eps)
        return normalized
