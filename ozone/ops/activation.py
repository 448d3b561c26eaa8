"""Gated activations (Shazeer, 2020): the activated first half of the columns times the second half.

The activation is rounded to the activations' type before it is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from ozone.native import kernel
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _activation_and_mul = kernel("activation_and_mul")

# Ops as kernels' `activation` fields have them.
CODES = {"silu_and_mul": 0, "gelu_tanh_and_mul": 1}


def _native(name: str) -> Callable[[Tensor], Tensor]:
    code = CODES[name]

    def activation_and_mul(x: Tensor) -> Tensor:
        x = x.contiguous()
        rows, cols = x.shape
        cols //= 2
        out = x.new_empty(rows, cols)
        _activation_and_mul(out.data_ptr(), x.data_ptr(), rows, cols, code, DTYPES[x.dtype])
        return out

    return activation_and_mul


def _fake(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@op("silu_and_mul", fake=_fake, native=_native("silu_and_mul"))
def silu_and_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up`` with x = [gate | up]: (tokens, 2n) -> (tokens, n)."""
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


@op("gelu_tanh_and_mul", fake=_fake, native=_native("gelu_tanh_and_mul"))
def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    """``gelu(gate) * up`` with x = [gate | up] and gelu's tanh approximation: (tokens, 2n) -> (tokens, n)."""
    gate, up = x.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up
