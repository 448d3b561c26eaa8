"""Gated activations (Shazeer, 2020): the activated first half of the columns times the second half."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ozone.ops.registry import op


@op("silu_and_mul")
def silu_and_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up`` with x = [gate | up]: (..., 2n) -> (..., n)."""
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


@op("gelu_tanh_and_mul")
def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    """``gelu(gate) * up`` with x = [gate | up] and gelu's tanh approximation: (..., 2n) -> (..., n)."""
    gate, up = x.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up
