"""Products with weight matrices in the activations' type. Sums are float32; a result is rounded once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ozone.native import kernel
from ozone.ops.panels import PANEL_ROWS, allocate_tensor, panel_count
from ozone.ops.registry import DTYPES, NATIVE, op

# Elements of a matrix that the reference converts to float32 at a time: about 4 MB.
_CHUNK = 1 << 20

if NATIVE:
    _linear_float = kernel("linear_float")
    _pack_panels = kernel("pack_panels")


def step_columns(dtype: torch.dtype) -> int:
    """Columns of a step of packed weights of that type, `csrc/kernels/panel.h`."""
    return 2 if dtype is torch.bfloat16 else 1


def float_weight_shape(rows: int, cols: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Shape of the weight that `linear` and `logits` want for a (rows, cols) matrix: (panels, steps, 48,
    columns of a step) where the native library is, else (rows, cols).
    """
    if not NATIVE:
        return (rows, cols)
    step = step_columns(dtype)
    return (panel_count(rows), -(-cols // step), PANEL_ROWS, step)


def allocate_float(name: str, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    """Memory for such a weight, which `pack_float` fills."""
    return allocate_tensor(name, float_weight_shape(rows, cols, dtype), dtype)


def pack_float(packed: Tensor, row: int, weight: Tensor) -> None:
    """Put rows of a matrix where `linear` wants them. Runs on the calling thread; parts that do not overlap
    may be packed side by side.

    Args:
        packed: from `allocate_float`.
        row: where in the whole matrix the part's first row is.
        weight: (rows of the part, cols), of the type of `packed`.
    """
    if packed.dim() == 2:
        packed[row : row + len(weight)] = weight
        return
    weight = weight.contiguous()
    rows, cols = weight.shape
    size = packed.element_size()
    _pack_panels.alone(
        packed.data_ptr(), weight.data_ptr(), row, rows, cols * size, step_columns(packed.dtype) * size
    )


def unpack_float(weight: Tensor, rows: int, cols: int) -> Tensor:
    """The (rows, cols) matrix in what `allocate_float` returned."""
    if weight.dim() == 2:
        return weight
    return weight.transpose(1, 2).reshape(weight.shape[0] * PANEL_ROWS, -1)[:rows, :cols]


def _native_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, rows: int
) -> Tensor:
    if weight.dim() == 2:
        return _linear(x, weight, bias, residual)
    tokens, cols = x.shape
    out = x.new_empty((tokens, rows))
    dtype = DTYPES[x.dtype]
    _linear_float(
        out.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        tokens,
        rows,
        cols,
        x.stride(0),
        dtype,
        dtype,
        0.0,
    )
    return out


def _fake_linear(
    x: Tensor,
    weight: Tensor,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    rows: int,
) -> Tensor:
    return x.new_empty((x.shape[0], rows))


@op("linear", native=_native_linear, fake=_fake_linear)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, rows: int) -> Tensor:
    """``x @ weight.T + bias + residual``, rounded once (the reference rounds the product by itself too).

    Args:
        x: (tokens, columns), of the type of `weight`; columns side by side.
        weight: from `allocate_float`, or plain (rows, columns), for which the reference runs.
        bias: (rows,), float32.
        residual: (tokens, rows) of the type of `x`, dense.
        rows: rows of the weight, which may be padded.

    Returns: (tokens, rows). Natively, a row does not depend on the batch that it is in; with AMX, not beyond
        whether that has more than 16 tokens.
    """
    return _linear(x, unpack_float(weight, rows, x.shape[1]), bias, residual)


def _native_logits(x: Tensor, weight: Tensor, softcap: float | None, rows: int) -> Tensor:
    if weight.dim() == 2:
        return _logits(x, weight, softcap)
    tokens, cols = x.shape
    out = torch.empty((tokens, rows), dtype=torch.float32)
    _linear_float(
        out.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        0,
        0,
        tokens,
        rows,
        cols,
        x.stride(0),
        DTYPES[x.dtype],
        0,
        0.0 if softcap is None else softcap,
    )
    return out


def _fake_logits(x: Tensor, weight: Tensor, softcap: float | None, rows: int) -> Tensor:  # noqa: ARG001
    return x.new_empty((x.shape[0], rows), dtype=torch.float32)


@op("logits", native=_native_logits, fake=_fake_logits)
def logits(x: Tensor, weight: Tensor, softcap: float | None, rows: int) -> Tensor:
    """Scores of every token of the vocabulary: (tokens, columns) by (vocabulary, columns) -> float32.

    Sums are not rounded to the weights' type on their way. With a soft cap the scores are
    ``softcap * tanh(score / softcap)``. `weight` and `rows` are as in `linear`.
    """
    return _logits(x, unpack_float(weight, rows, x.shape[1]), softcap)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    product = functional.linear(x, weight, None if bias is None else bias.to(x.dtype))
    return product if residual is None else product + residual


def _logits(x: Tensor, weight: Tensor, softcap: float | None) -> Tensor:
    # A few rows of the weights at a time, converted while they are in a cache.
    wide = x.to(torch.float32)
    parts = torch.split(weight, max(_CHUNK // weight.shape[1], 1))
    scores = torch.cat([wide @ part.to(torch.float32).t() for part in parts], dim=1)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
