"""Norms, activations and quantization of 1, 32 and 512 rows, alone and fused, out of a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

import ozone.ops.activation
import ozone.ops.elementwise
import ozone.ops.fused
import ozone.ops.norm
import ozone.ops.quantize  # noqa: F401 (an import registers a family's ops)
from ozone.bench.kernels.cases import Call, Case, Work
from ozone.bench.kernels.tensors import tensor_bytes
from ozone.ops.registry import OPS

_ROWS = (1, 32, 512)
_HIDDEN, _INTERMEDIATE = 2048, 8192


@dataclass(frozen=True)
class Elementwise:
    """One op over rows.

    Attributes:
        op: its name in the vocabulary.
        cols: columns of the input.
        arguments: what follows the input, from the input.
        peer: the same in ATen, from the input and those arguments; None where torch has nothing like it.
    """

    op: str
    cols: int
    arguments: Callable[[Tensor], tuple[object, ...]] = lambda _: ()
    peer: Callable[..., object] | None = None


def _weight(x: Tensor) -> tuple[object, ...]:
    return torch.ones(x.shape[1]), 1e-5


def _residual_and_weight(x: Tensor) -> tuple[object, ...]:
    return torch.randn(x.shape).to(x.dtype), *_weight(x)


def _static_scale(_: Tensor) -> tuple[object, ...]:
    return (torch.full((1,), 0.01),)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def _fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _rms_norm(x + residual, weight, eps)


def _silu_and_mul(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return functional.silu(gate) * up


def _gelu_tanh_and_mul(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return functional.gelu(gate, approximate="tanh") * up


OPS_OVER_ROWS: tuple[Elementwise, ...] = (
    Elementwise("rms_norm", _HIDDEN, _weight, _rms_norm),
    Elementwise("fused_add_rms_norm", _HIDDEN, _residual_and_weight, _fused_add_rms_norm),
    Elementwise("silu_and_mul", 2 * _INTERMEDIATE, peer=_silu_and_mul),
    Elementwise("gelu_tanh_and_mul", 2 * _INTERMEDIATE, peer=_gelu_tanh_and_mul),
    Elementwise("add", _HIDDEN, lambda x: (torch.randn(x.shape).to(x.dtype),), torch.add),
    Elementwise("quantize_fp8_static", _HIDDEN, _static_scale),
    Elementwise("quantize_fp8_token", _HIDDEN),
    Elementwise("quantize_fp8_group", _HIDDEN, lambda _: (128,)),
    Elementwise("quantize_int8_token", _HIDDEN),
    Elementwise("quantize_int8_group", _HIDDEN, lambda _: (32,)),
    Elementwise("rms_norm_quantize_fp8_static", _HIDDEN, lambda x: (*_weight(x), *_static_scale(x))),
    Elementwise("fused_add_rms_norm_quantize_int8_token", _HIDDEN, _residual_and_weight),
    Elementwise("silu_and_mul_quantize_int8_group", 2 * _INTERMEDIATE, lambda _: (32,)),
)


def cases() -> Iterator[Case]:
    for one in OPS_OVER_ROWS:
        for rows in _ROWS:
            yield Case(one.op, "bf16", f"{rows} x {one.cols}", partial(_work, one, rows))


def _work(one: Elementwise, rows: int) -> Work:
    x = torch.randn(rows, one.cols).to(torch.bfloat16)
    arguments = one.arguments(x)
    call = partial(OPS[one.op].call, x, *arguments)
    results = call()
    tensors = [x, *arguments, *(results if isinstance(results, tuple) else (results,))]
    peers: dict[str, list[Call]] = {}
    if one.peer is not None:
        peers["ATen"] = [partial(one.peer, x, *arguments)]
    touched = sum(tensor_bytes(tensor) for tensor in tensors if isinstance(tensor, Tensor))
    return Work([call], touched=touched, peers=peers)
