"""Norms, gated activations and attention fused with what quantizes or pads their result.

Passes put them into graphs. An op is named for its parts: ``rms_norm_quantize_fp8_static(x, weight, eps,
x_scale)`` is ``quantize_fp8_static(rms_norm(x, weight, eps), x_scale)``; ``fused_add_rms_norm_...`` returns
the sum behind the other results. On one instruction set, it gives what its parts give, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ozone.native import kernel
from ozone.ops import norm  # noqa: F401 (its references are looked up by name)
from ozone.ops.activation import CODES
from ozone.ops.attention import attend
from ozone.ops.quantize import TARGETS, Target, with_stride
from ozone.ops.registry import DTYPES, NATIVE, OPS, op
from ozone.ops.schemas import FUSED, SCHEMAS

if NATIVE:
    _rms_norm_quantize = kernel("rms_norm_quantize")
    _fused_add_rms_norm_quantize = kernel("fused_add_rms_norm_quantize")
    _activation_and_mul_quantize = kernel("activation_and_mul_quantize")
    _attention_merge_quantize = kernel("attention_merge_quantize")

# A kernel keeps one row in the scratch memory of its thread.
_MAX_COLS = 1 << 19


def _rms_norm(target: Target) -> Callable[..., Any]:
    def native(x: Tensor, weight: Tensor, eps: float, *arguments: Any) -> Any:
        (rows, cols), dtype = x.shape, x.dtype
        stride = cols
        if not x.is_contiguous():
            x, stride = with_stride(x)
        source = (x.data_ptr(), weight.data_ptr(), rows, cols, stride, eps, DTYPES[dtype])
        return target(_rms_norm_quantize, dtype, rows, _checked(cols), source, *arguments)

    return native


def _fused_add_rms_norm(target: Target) -> Callable[..., Any]:
    def native(x: Tensor, residual: Tensor, weight: Tensor, eps: float, *arguments: Any) -> Any:
        x, residual = x.contiguous(), residual.contiguous()
        (rows, cols), dtype = x.shape, x.dtype
        total = torch.empty_like(x)
        source = (
            total.data_ptr(),
            x.data_ptr(),
            residual.data_ptr(),
            weight.data_ptr(),
            rows,
            cols,
            eps,
            DTYPES[dtype],
        )
        results = target(_fused_add_rms_norm_quantize, dtype, rows, _checked(cols), source, *arguments)
        return (*results, total) if isinstance(results, tuple) else (results, total)

    return native


def _activation_and_mul(name: str) -> Callable[[Target], Callable[..., Any]]:
    code = CODES[name]

    def of(target: Target) -> Callable[..., Any]:
        def native(x: Tensor, *arguments: Any) -> Any:
            x = x.contiguous()
            (rows, twice), dtype = x.shape, x.dtype
            cols = twice // 2
            source = (x.data_ptr(), rows, cols, code, DTYPES[dtype])
            return target(_activation_and_mul_quantize, dtype, rows, _checked(cols), source, *arguments)

        return native

    return of


# Its own arguments, which those of the target follow.
_ATTENTION_ARGUMENTS = len(SCHEMAS["attention"].arguments)


def _attention(target: Target) -> Callable[..., Any]:
    def native(*arguments: Any) -> Any:
        rows, partials, starts, lengths, sizes = attend(*arguments[:_ATTENTION_ARGUMENTS])
        (tokens, cols), dtype = rows.shape, rows.dtype
        source = (rows.data_ptr(), partials, starts.data_ptr(), lengths.data_ptr(), tokens, *sizes)
        own = arguments[_ATTENTION_ARGUMENTS:]
        return target(_attention_merge_quantize, dtype, tokens, _checked(cols), source, *own)

    return native


def _checked(cols: int) -> int:
    if cols > _MAX_COLS:
        raise ValueError(f"{cols} columns are more than the {_MAX_COLS} of a fused op")
    return cols


# For each source, its native function given the target.
_NATIVE: dict[str, Callable[[Target], Callable[..., Any]]] = {
    "rms_norm": _rms_norm,
    "fused_add_rms_norm": _fused_add_rms_norm,
    "silu_and_mul": _activation_and_mul("silu_and_mul"),
    "gelu_tanh_and_mul": _activation_and_mul("gelu_tanh_and_mul"),
    "attention": _attention,
}


def _composed(parts: tuple[str, ...], kind: Literal["reference", "fake"]) -> Callable[..., Any]:
    """The references or fakes of the parts, each applied to the first result of the one before."""
    functions = [(getattr(OPS[part], kind), len(OPS[part].schema.arguments)) for part in parts]

    def composed(*arguments: Any) -> Any:
        (first, count), *others = functions
        results, rest = _as_tuple(first(*arguments[:count])), arguments[count:]
        for function, count in others:
            own, rest = rest[: count - 1], rest[count - 1 :]
            results = _as_tuple(function(results[0], *own)) + results[1:]
        return results if len(results) > 1 else results[0]

    return composed


def _as_tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


for _name, _parts in FUSED.items():
    _target = TARGETS["_".join(_parts[1:])]
    _fake, _native = _composed(_parts, "fake"), _NATIVE[_parts[0]](_target)
    op(_name, fake=_fake, native=_native)(_composed(_parts, "reference"))
