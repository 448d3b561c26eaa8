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

from ozone.native import Kernel, kernel
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _quantize = kernel("quantize")

E4M3 = torch.float8_e4m3fn
INT8 = torch.int8
_LARGEST = {E4M3: 448.0, INT8: 127.0}
_SMALLEST_SCALE = 2.0**-126
# Columns of one sum: the finest that a weight format has an offset for.
SUM_COLS = 16

# Allocates results, launches a kernel that fills them, and returns them. Arguments: the kernel; type, rows
# and columns of what is to be quantized; its fields for that, which follow those for the results
# (`Quantized` in csrc/kernels/quantize.h); the further arguments of the op.
Target = Callable[..., Any]


# `new_empty` of a tensor that is there takes 0.13 us less than `torch.empty` with a type, of about 1 us.
_new_e4m3 = torch.empty(0, dtype=E4M3).new_empty
_new_int8 = torch.empty(0, dtype=INT8).new_empty
_new_scales = torch.empty(0, dtype=torch.float32).new_empty
_new_sums = torch.empty(0, dtype=torch.int16).new_empty


def _static(code: int, new: Callable[..., Tensor]) -> Target:
    def target(
        launch: Kernel, _: torch.dtype, rows: int, cols: int, source: tuple[Any, ...], scale: Tensor
    ) -> Tensor:
        q = new(rows, cols)
        launch(q.data_ptr(), 0, 0, scale.data_ptr(), code, 0, cols, *source)
        return q

    return target


def _token(code: int, new: Callable[..., Tensor]) -> Target:
    def target(
        launch: Kernel, _: torch.dtype, rows: int, cols: int, source: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        q, scale = new(rows, cols), _new_scales(rows, 1)
        launch(q.data_ptr(), scale.data_ptr(), 0, 0, code, 0, cols, *source)
        return q, scale

    return target


def _fp8_group(
    launch: Kernel, _: torch.dtype, rows: int, cols: int, source: tuple[Any, ...], group: int
) -> tuple[Tensor, Tensor]:
    q, scale = _new_e4m3(rows, cols), _new_scales(rows, _groups(cols, group))
    launch(q.data_ptr(), scale.data_ptr(), 0, 0, 3, group, cols, *source)
    return q, scale


def _int8_group(
    launch: Kernel, _: torch.dtype, rows: int, cols: int, source: tuple[Any, ...], group: int
) -> tuple[Tensor, Tensor, Tensor]:
    q, scale = _new_int8(rows, cols), _new_scales(rows, _groups(cols, group))
    sums = _new_sums(rows, _groups(cols, SUM_COLS))
    launch(q.data_ptr(), scale.data_ptr(), sums.data_ptr(), 0, 6, group, cols, *source)
    return q, scale, sums


def _pad(
    launch: Kernel, dtype: torch.dtype, rows: int, cols: int, source: tuple[Any, ...], multiple: int
) -> Tensor:
    padded = torch.empty(rows, _padded(cols, multiple), dtype=dtype)
    launch(padded.data_ptr(), 0, 0, 0, 0, 0, padded.shape[1], *source)
    return padded


def _pad_fp8_group(
    launch: Kernel,
    dtype: torch.dtype,
    rows: int,
    cols: int,
    source: tuple[Any, ...],
    multiple: int,
    group: int,
) -> tuple[Tensor, Tensor]:
    return _fp8_group(launch, dtype, rows, _padded(cols, multiple), source, group)


def _groups(cols: int, group: int) -> int:
    if cols % group:
        raise ValueError(f"{cols} columns cannot be divided into groups of {group}")
    return cols // group


def _padded(cols: int, multiple: int) -> int:
    return -(-cols // multiple) * multiple


# By the name of the op that does nothing else. Ops of `ozone/ops/fused.py` end in these too.
TARGETS: dict[str, Target] = {
    "pad": _pad,
    "quantize_fp8_static": _static(1, _new_e4m3),
    "quantize_fp8_token": _token(2, _new_e4m3),
    "quantize_fp8_group": _fp8_group,
    "quantize_int8_static": _static(4, _new_int8),
    "quantize_int8_token": _token(5, _new_int8),
    "quantize_int8_group": _int8_group,
    "pad_quantize_fp8_group": _pad_fp8_group,
}


def with_stride(x: Tensor) -> tuple[Tensor, int]:
    """Rows whose columns are side by side, and the elements from row to row."""
    if x.stride(1) != 1:
        x = x.contiguous()
    return x, x.stride(0)


def _native(name: str) -> Callable[..., Any]:
    target = TARGETS[name]

    def quantize(x: Tensor, *arguments: Any) -> Any:
        (rows, cols), dtype = x.shape, x.dtype
        stride = cols
        if not x.is_contiguous():
            x, stride = with_stride(x)
        source = (x.data_ptr(), rows, cols, stride, DTYPES[dtype])
        return target(_quantize, dtype, rows, cols, source, *arguments)

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


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


def _scales(x: Tensor, columns: int) -> Tensor:
    return x.new_empty(x.shape[0], columns, dtype=torch.float32)


def _fake_fp8_group(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    return _like(x, E4M3), _scales(x, _groups(x.shape[1], group))


def _fake_int8_group(x: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    sums = x.new_empty(x.shape[0], _groups(x.shape[1], SUM_COLS), dtype=torch.int16)
    return _like(x, INT8), _scales(x, _groups(x.shape[1], group)), sums


def _fake_pad(x: Tensor, multiple: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] + -x.shape[1] % multiple)


@op("quantize_fp8_static", fake=lambda x, _: _like(x, E4M3), native=_native("quantize_fp8_static"))
def quantize_fp8_static(x: Tensor, x_scale: Tensor) -> Tensor:
    """``x / x_scale`` as e4m3, at most 448: (tokens, columns), with `x_scale` of (1,) float32."""
    return _rounded(x.to(torch.float32) / x_scale, E4M3)


@op(
    "quantize_fp8_token", fake=lambda x: (_like(x, E4M3), _scales(x, 1)), native=_native("quantize_fp8_token")
)
def quantize_fp8_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row divided by its own scale, that of its largest number being 448.

    Returns: e4m3 like `x`, and scales (tokens, 1) float32.
    """
    return _with_scales(x, E4M3)


@op("quantize_fp8_group", fake=_fake_fp8_group, native=_native("quantize_fp8_group"))
def quantize_fp8_group(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Each `group` columns of a row divided by their own scale, that of their largest number being 448.

    Returns: e4m3 like `x`, and scales (tokens, columns / group) float32.

    Raises: `ValueError` where `group` does not divide the columns.
    """
    q, scale = _with_scales(_in_groups(x, group), E4M3)
    return q.flatten(1), scale.flatten(1)


@op("quantize_int8_static", fake=lambda x, _: _like(x, INT8), native=_native("quantize_int8_static"))
def quantize_int8_static(x: Tensor, x_scale: Tensor) -> Tensor:
    """``x / x_scale`` as int8, within [-128, 127]: (tokens, columns), with `x_scale` of (1,) float32."""
    return _rounded(x.to(torch.float32) / x_scale, INT8)


@op(
    "quantize_int8_token",
    fake=lambda x: (_like(x, INT8), _scales(x, 1)),
    native=_native("quantize_int8_token"),
)
def quantize_int8_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row divided by its own scale, that of its largest number being 127.

    Returns: int8 like `x`, and scales (tokens, 1) float32.
    """
    return _with_scales(x, INT8)


@op("quantize_int8_group", fake=_fake_int8_group, native=_native("quantize_int8_group"))
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


@op("pad", fake=_fake_pad, native=_native("pad"))
def pad(x: Tensor, multiple: int) -> Tensor:
    """Columns of zeros behind those of `x`, up to a multiple: (tokens, columns) -> (tokens, more columns)."""
    return functional.pad(x, (0, -x.shape[1] % multiple))
