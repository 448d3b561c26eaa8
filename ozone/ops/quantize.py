"""Quantization and padding of activations. A quantized linear takes what these ops return.

Conventions are those of compressed-tensors and vLLM (fp8, int8), and of llama.cpp (int8 in groups, with sums
for formats whose weights have a minimum). A quotient is a float32, rounded to nearest, ties to even; fp8 is
e4m3 and keeps NaN, int8 has none and makes it 0. A dynamic scale is at least 2^-126, so that a row of zeros
has one, and NaN where one of its numbers is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ozone.native import kernel
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _quantize = kernel("quantize")

E4M3 = torch.float8_e4m3fn
INT8 = torch.int8
_LARGEST = {E4M3: 448.0, INT8: 127.0}
_SMALLEST_SCALE = 2.0**-126
# Columns of one sum: the finest that a weight format has an offset for.
SUM_COLS = 16

# Results to be filled, and the fields that say so to a kernel: `Quantized` in csrc/kernels/quantize.h.
Outputs = tuple[tuple[Tensor, ...], tuple[int, ...]]


def _static(target: int, dtype: torch.dtype) -> Callable[[Tensor, int, int, Tensor], Outputs]:
    def outputs(x: Tensor, rows: int, cols: int, scale: Tensor) -> Outputs:  # noqa: ARG001
        q = torch.empty(rows, cols, dtype=dtype)
        return (q,), (q.data_ptr(), 0, 0, scale.data_ptr(), target, 0, cols)

    return outputs


def _token(target: int, dtype: torch.dtype) -> Callable[[Tensor, int, int], Outputs]:
    def outputs(x: Tensor, rows: int, cols: int) -> Outputs:  # noqa: ARG001
        q, scale = torch.empty(rows, cols, dtype=dtype), torch.empty(rows, 1, dtype=torch.float32)
        return (q, scale), (q.data_ptr(), scale.data_ptr(), 0, 0, target, 0, cols)

    return outputs


def _fp8_group(x: Tensor, rows: int, cols: int, group: int) -> Outputs:  # noqa: ARG001
    q = torch.empty(rows, cols, dtype=E4M3)
    scale = torch.empty(rows, _groups(cols, group), dtype=torch.float32)
    return (q, scale), (q.data_ptr(), scale.data_ptr(), 0, 0, 3, group, cols)


def _int8_group(x: Tensor, rows: int, cols: int, group: int) -> Outputs:  # noqa: ARG001
    q = torch.empty(rows, cols, dtype=INT8)
    scale = torch.empty(rows, _groups(cols, group), dtype=torch.float32)
    sums = torch.empty(rows, _groups(cols, SUM_COLS), dtype=torch.int16)
    return (q, scale, sums), (q.data_ptr(), scale.data_ptr(), sums.data_ptr(), 0, 6, group, cols)


def _pad(x: Tensor, rows: int, cols: int, multiple: int) -> Outputs:
    padded = torch.empty(rows, _padded(cols, multiple), dtype=x.dtype)
    return (padded,), (padded.data_ptr(), 0, 0, 0, 0, 0, _padded(cols, multiple))


def _pad_fp8_group(x: Tensor, rows: int, cols: int, multiple: int, group: int) -> Outputs:
    return _fp8_group(x, rows, _padded(cols, multiple), group)


def _groups(cols: int, group: int) -> int:
    if cols % group:
        raise ValueError(f"{cols} columns cannot be divided into groups of {group}")
    return cols // group


def _padded(cols: int, multiple: int) -> int:
    return -(-cols // multiple) * multiple


# What a kernel makes of rows, by the name of the op that does nothing else: results and fields of a call,
# from an x that has the rows' type, the number of rows and columns, and the op's further arguments. Ops that
# make the rows first (`ozone/ops/fused.py`) take theirs from here too.
TARGETS: dict[str, Callable[..., Outputs]] = {
    "pad": _pad,
    "quantize_fp8_static": _static(1, E4M3),
    "quantize_fp8_token": _token(2, E4M3),
    "quantize_fp8_group": _fp8_group,
    "quantize_int8_static": _static(4, INT8),
    "quantize_int8_token": _token(5, INT8),
    "quantize_int8_group": _int8_group,
    "pad_quantize_fp8_group": _pad_fp8_group,
}


def dense_rows(x: Tensor) -> Tensor:
    """`x` with the columns of a row side by side, as kernels want them."""
    return x if x.is_contiguous() or x.stride(1) == 1 else x.contiguous()


def _native(name: str) -> Callable[..., Any]:
    outputs = TARGETS[name]

    def quantize(x: Tensor, *arguments: Any) -> Any:
        x = dense_rows(x)
        rows, cols = x.shape
        results, fields = outputs(x, rows, cols, *arguments)
        _quantize(*fields, x.data_ptr(), rows, cols, x.stride(0), DTYPES[x.dtype])
        return results if len(results) > 1 else results[0]

    return quantize


def _rounded(quotient: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype is INT8:
        return quotient.nan_to_num(0.0, float("inf"), float("-inf")).round().clamp(-128, 127).to(INT8)
    return quotient.clamp(-448.0, 448.0).to(E4M3)


def _with_scales(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(..., columns) quantized with one scale for each row, (..., 1)."""
    wide = x.to(torch.float32)
    scale = (wide.abs().amax(-1, keepdim=True) / _LARGEST[dtype]).clamp(min=_SMALLEST_SCALE)
    return _rounded(wide / scale, dtype), scale


def _in_groups(x: Tensor, group: int) -> Tensor:
    return x.reshape(x.shape[0], _groups(x.shape[1], group), group)


@op("quantize_fp8_static", native=_native("quantize_fp8_static"))
def quantize_fp8_static(x: Tensor, scale: Tensor) -> Tensor:
    """``x / scale`` as e4m3, at most 448: (tokens, columns), with `scale` of (1,) float32."""
    return _rounded(x.to(torch.float32) / scale, E4M3)


@op("quantize_fp8_token", native=_native("quantize_fp8_token"))
def quantize_fp8_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row divided by its own scale, that of its largest number being 448.

    Returns: e4m3 like `x`, and scales (tokens, 1) float32.
    """
    return _with_scales(x, E4M3)


@op("quantize_fp8_group", native=_native("quantize_fp8_group"))
def quantize_fp8_group(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Each `group` columns of a row divided by their own scale, that of their largest number being 448.

    Returns: e4m3 like `x`, and scales (tokens, columns / group) float32.

    Raises: `ValueError` where `group` does not divide the columns.
    """
    q, scale = _with_scales(_in_groups(x, group), E4M3)
    return q.flatten(1), scale.flatten(1)


@op("quantize_int8_static", native=_native("quantize_int8_static"))
def quantize_int8_static(x: Tensor, scale: Tensor) -> Tensor:
    """``x / scale`` as int8, within [-128, 127]: (tokens, columns), with `scale` of (1,) float32."""
    return _rounded(x.to(torch.float32) / scale, INT8)


@op("quantize_int8_token", native=_native("quantize_int8_token"))
def quantize_int8_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row divided by its own scale, that of its largest number being 127.

    Returns: int8 like `x`, and scales (tokens, 1) float32.
    """
    return _with_scales(x, INT8)


@op("quantize_int8_group", native=_native("quantize_int8_group"))
def quantize_int8_group(x: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each `group` columns of a row divided by their own scale, that of their largest number being 127.

    Returns: int8 like `x`; scales (tokens, columns / group) float32; the sum of each 16 quantized columns,
    (tokens, columns / 16) int16.

    Raises: `ValueError` where `group` or 16 does not divide the columns.
    """
    q, scale = _with_scales(_in_groups(x, group), INT8)
    q = q.flatten(1)
    sums = _in_groups(q, SUM_COLS).sum(-1, dtype=torch.int16)
    return q, scale.flatten(1), sums


@op("pad", native=_native("pad"))
def pad(x: Tensor, multiple: int) -> Tensor:
    """Columns of zeros behind those of `x`, up to a multiple: (tokens, columns) -> (tokens, more columns)."""
    return functional.pad(x, (0, -x.shape[1] % multiple))
