"""Arithmetic on one element at a time: float32 inside, rounded once to the activations' type."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.native import kernel
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _elementwise = kernel("elementwise")


def _native_add(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    rows, cols = x.shape
    _elementwise(out.data_ptr(), x.data_ptr(), y.data_ptr(), rows, cols, 0, 0.0, DTYPES[x.dtype])
    return out


def _fake(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@op("add", fake=_fake, native=_native_add)
def add(x: Tensor, y: Tensor) -> Tensor:
    """``x + y``: (tokens, columns) twice -> the same."""
    return x + y


def _native_scale(x: Tensor, factor: float) -> Tensor:
    return _with_factor(x, 1, factor)


@op("scale", fake=_fake, native=_native_scale)
def scale(x: Tensor, factor: float) -> Tensor:
    """``x * factor``: (tokens, columns) -> the same."""
    return x * factor


def _native_softcap(x: Tensor, cap: float) -> Tensor:
    return _with_factor(x, 2, cap)


@op("softcap", fake=_fake, native=_native_softcap)
def softcap(x: Tensor, cap: float) -> Tensor:
    """``cap * tanh(x / cap)``, which stays within the cap (Gemma 2): (tokens, columns) -> the same."""
    return (torch.tanh(x.to(torch.float32) / cap) * cap).to(x.dtype)


def _with_factor(x: Tensor, operation: int, factor: float) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    rows, cols = x.shape
    _elementwise(out.data_ptr(), x.data_ptr(), 0, rows, cols, operation, factor, DTYPES[x.dtype])
    return out
