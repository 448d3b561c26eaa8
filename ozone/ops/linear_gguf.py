"""Products with weights in GGUF's block types, rows of tables in them, and how they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ozone.native import kernel
from ozone.ops.panels import PANEL_ROWS, allocate_tensor, panel_count
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _linear_gguf = kernel("linear_gguf")
    _embedding_gguf = kernel("embedding_gguf")
    _pack_gguf = kernel("pack_gguf")

GROUP_COLS = 32
MOST_SEGMENTS = 3
_LINE = PANEL_ROWS * 4
# Packed weights are made of pieces of this size, of which units are multiples.
_PIECE = 32
_NO_SEGMENTS: tuple[tuple[int, ...], ...] = ((0, 0, 0, 0, 0, 0), (0, 0, 0, 0), (0, 0), ())


@dataclass(frozen=True)
class GGUFPacking:
    """How a block type is packed: `csrc/kernels/gguf_types.h` describes the layout.

    Attributes:
        number: GGML's number of the type.
        bits: of a weight.
        offset: what weights are stored with added.
        has_min: whether groups of columns have a minimum.
        groups: of 32 columns in a block.
        half_scales: whether each 16 columns have a scale of their own.
        block_bytes: of a block in a file.
    """

    number: int
    bits: int
    offset: int
    has_min: bool
    groups: int
    half_scales: bool
    block_bytes: int

    @property
    def block_cols(self) -> int:
        return self.groups * GROUP_COLS

    @property
    def head_bytes(self) -> int:
        return 2 * (1 + self.has_min) * PANEL_ROWS if self.groups > 1 else 0

    @property
    def scale_bytes(self) -> int:
        return PANEL_ROWS if self.groups > 1 else 2 * PANEL_ROWS

    @property
    def scales(self) -> int:
        """Numbers beside a group's weights."""
        return 1 + self.half_scales + self.has_min

    @property
    def unit_bytes(self) -> int:
        """A block of each of a panel's rows."""
        return self.head_bytes + self.groups * (self.scales * self.scale_bytes + self.bits * _LINE)

    def row_bytes(self, cols: int) -> int:
        """A row in a file."""
        return cols // self.block_cols * self.block_bytes

    def packed_bytes(self, rows: int, cols: int) -> int:
        return panel_count(rows) * (cols // self.block_cols) * self.unit_bytes


GGUF_PACKINGS: dict[str, GGUFPacking] = {
    "Q4_0": GGUFPacking(2, 4, 8, False, 1, False, 18),
    "Q4_1": GGUFPacking(3, 4, 0, True, 1, False, 20),
    "Q5_0": GGUFPacking(6, 5, 16, False, 1, False, 22),
    "Q5_1": GGUFPacking(7, 5, 0, True, 1, False, 24),
    "Q8_0": GGUFPacking(8, 8, 128, False, 1, False, 34),
    "Q4_K": GGUFPacking(12, 4, 0, True, 8, False, 144),
    "Q5_K": GGUFPacking(13, 5, 0, True, 8, False, 176),
    "Q6_K": GGUFPacking(14, 6, 32, False, 8, True, 210),
}
_BY_NUMBER = {packing.number: packing for packing in GGUF_PACKINGS.values()}


def gguf_segments(parts: Sequence[tuple[str, int]]) -> list[int]:
    """Types and rows of the parts of a matrix as the ops here take them: [number of a type, rows, ...].

    Neighbours of one type are one segment. Raises: `ValueError` for more segments than a launch takes.
    """
    segments: list[int] = []
    for kind, rows in parts:
        number = GGUF_PACKINGS[kind].number
        if segments and segments[-2] == number:
            segments[-1] += rows
        else:
            segments += (number, rows)
    if len(segments) > 2 * MOST_SEGMENTS:
        raise ValueError(f"{len(segments) // 2} types follow each other; {MOST_SEGMENTS} are possible")
    return segments


def packed_gguf_shape(segments: Sequence[int], cols: int) -> tuple[int, int]:
    """The shape of what `pack_gguf` makes of those segments."""
    pairs = zip(segments[::2], segments[1::2], strict=True)
    return sum(_BY_NUMBER[number].packed_bytes(rows, cols) for number, rows in pairs) // _PIECE, _PIECE


def pack_gguf(parts: Sequence[tuple[str, NDArray[np.uint8]]], cols: int) -> Tensor:
    """Weights as the ops here want them. Needs the native library.

    Args:
        parts: types and blocks, as in a GGUF file, of matrices to be stacked by rows.
        cols: of each of them; a multiple of every type's block.

    Returns: uint8 of (pieces, 32), each segment of `gguf_segments` in whole panels.
    """
    rows = [
        blocks.size // (cols // (p := GGUF_PACKINGS[kind]).block_cols * p.block_bytes)
        for kind, blocks in parts
    ]
    segments = gguf_segments([(kind, count) for (kind, _), count in zip(parts, rows, strict=True)])
    packed = allocate_tensor("weights", packed_gguf_shape(segments, cols), torch.uint8)
    start, before = packed.data_ptr(), 0
    ends = iter(zip(segments[::2], segments[1::2], strict=True))
    number, left = next(ends)
    for (_, blocks), count in zip(parts, rows, strict=True):
        if left == 0:
            start += _BY_NUMBER[number].packed_bytes(before, cols)
            number, left = next(ends)
            before = 0
        data = np.ascontiguousarray(blocks)
        _pack_gguf.alone(start, data.ctypes.data, before, count, cols, number)
        before += count
        left -= count
    return packed


def unpack_gguf(weight: Tensor, segments: Sequence[int], cols: int) -> Tensor:
    """The numbers in what `pack_gguf` returned: (rows, cols) float32."""
    matrices, flat = [], weight.view(-1)
    for number, rows in zip(segments[::2], segments[1::2], strict=True):
        packing = _BY_NUMBER[number]
        size = packing.packed_bytes(rows, cols)
        units = flat[:size].view(panel_count(rows), cols // packing.block_cols, packing.unit_bytes)
        matrices.append(_unpack_units(units, packing).reshape(-1, cols)[:rows])
        flat = flat[size:]
    return torch.cat(matrices)


def _unpack_units(units: Tensor, packing: GGUFPacking) -> Tensor:
    """(panels, units, bytes) -> (panels, 48, units, groups, 32) float32."""
    head, body = torch.split(units, [packing.head_bytes, units.shape[-1] - packing.head_bytes], -1)
    groups = body.reshape(*units.shape[:2], packing.groups, -1)
    scales, mins = _scales(head, groups[..., : packing.scales * packing.scale_bytes], packing)
    lines = groups[..., packing.scales * packing.scale_bytes :].reshape(*groups.shape[:3], -1, PANEL_ROWS, 4)
    # (panels, units, groups, 8 steps, 48, 4) -> (panels, 48, units, groups, 32)
    weights = _weights(lines, packing.bits).permute(0, 4, 1, 2, 3, 5).flatten(-2)
    values = (weights.to(torch.int16) - packing.offset).to(torch.float32) * scales
    return values if mins is None else values + mins


def _weights(lines: Tensor, bits: int) -> Tensor:
    """The unsigned integers of (..., lines, 48, 4), with a line for each four columns."""
    if bits == 8:
        return lines
    low = lines[..., bits - 4 :, :, :]
    weights = torch.cat((low & 15, low >> 4), -3)
    steps = torch.arange(8, dtype=torch.uint8).view(8, 1, 1)
    if bits == 5:
        weights |= (lines[..., :1, :, :] >> steps & 1) << 4
    if bits == 6:
        weights |= (lines[..., :2, :, :].repeat_interleave(4, -3) >> steps % 4 * 2 & 3) << 4
    return weights


def _scales(head: Tensor, stored: Tensor, packing: GGUFPacking) -> tuple[Tensor, Tensor | None]:
    """What weights are multiplied with, and what is added: each (panels, 48, units, groups, 1 or 32)."""

    def in_order(numbers: Tensor) -> Tensor:
        return numbers.to(torch.float32).permute(0, 3, 1, 2).unsqueeze(-1)

    def halves(stored: Tensor) -> Tensor:
        return stored.contiguous().view(torch.float16).to(torch.float32)

    columns = torch.split(stored, packing.scale_bytes, -1)
    if packing.groups == 1:
        scale = in_order(halves(columns[0]))
        return scale, in_order(halves(columns[1])) if packing.has_min else None
    scale, *minimum = (in_order(halves(part).unsqueeze(2)) for part in torch.split(head, PANEL_ROWS * 2, -1))
    if packing.half_scales:
        factors = [in_order(column.view(torch.int8)) for column in columns]
        return torch.cat([(scale * factor).expand(*factor.shape[:-1], 16) for factor in factors], -1), None
    return scale * in_order(columns[0]), -(minimum[0] * in_order(columns[1]))


def _launch(
    out: Tensor,
    x: Tensor,
    x_scale: Tensor,
    x_sums: Tensor,
    weight: Tensor,
    segments: Sequence[int],
    bias: Tensor | None,
    residual: Tensor | None,
    softcap: float,
) -> Tensor:
    tokens, cols = x.shape
    _linear_gguf(
        out.data_ptr(),
        x.data_ptr(),
        x_scale.data_ptr(),
        x_sums.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        tokens,
        cols,
        cols // x_scale.shape[1],
        *segments,
        *_NO_SEGMENTS[len(segments) // 2],
        DTYPES[out.dtype],
        softcap,
    )
    return out


def _native_linear_gguf(
    x: Tensor,
    x_scale: Tensor,
    x_sums: Tensor,
    weight: Tensor,
    segments: Sequence[int],
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    out = torch.empty((x.shape[0], rows), dtype=dtype)
    return _launch(out, x, x_scale, x_sums, weight, segments, bias, residual, 0.0)


def _fake_linear_gguf(
    x: Tensor,
    x_scale: Tensor,  # noqa: ARG001
    x_sums: Tensor,  # noqa: ARG001
    weight: Tensor,  # noqa: ARG001
    segments: Sequence[int],  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty((x.shape[0], rows), dtype=dtype)


@op("linear_gguf", native=_native_linear_gguf, fake=_fake_linear_gguf)
def linear_gguf(
    x: Tensor,
    x_scale: Tensor,
    x_sums: Tensor,  # noqa: ARG001 (follow from x)
    weight: Tensor,
    segments: Sequence[int],
    bias: Tensor | None,
    residual: Tensor | None,
    rows: int,  # noqa: ARG001
    dtype: torch.dtype,
) -> Tensor:
    """``(x * x_scale) @ weight.T + bias + residual``, rounded once.

    Args:
        x, x_scale, x_sums: what `quantize_int8_group` returns for groups of 32 or 256 columns.
        weight: what `pack_gguf` returned.
        segments: its types and rows, see `gguf_segments`.
        bias: (rows,) float32.
        residual: (tokens, rows) of type `dtype`, dense.
        rows: of all segments.
        dtype: of the result.

    Returns: (tokens, rows).
    """
    result = _product(x, x_scale, weight, segments)
    if bias is not None:
        result += bias
    if residual is not None:
        result += residual
    return result.to(dtype)


def _native_logits_gguf(
    x: Tensor,
    x_scale: Tensor,
    x_sums: Tensor,
    weight: Tensor,
    segments: Sequence[int],
    softcap: float | None,
    rows: int,
) -> Tensor:
    out = torch.empty((x.shape[0], rows), dtype=torch.float32)
    return _launch(out, x, x_scale, x_sums, weight, segments, None, None, softcap or 0.0)


def _fake_logits_gguf(
    x: Tensor,
    x_scale: Tensor,  # noqa: ARG001
    x_sums: Tensor,  # noqa: ARG001
    weight: Tensor,  # noqa: ARG001
    segments: Sequence[int],  # noqa: ARG001
    softcap: float | None,  # noqa: ARG001
    rows: int,
) -> Tensor:
    return x.new_empty((x.shape[0], rows), dtype=torch.float32)


@op("logits_gguf", native=_native_logits_gguf, fake=_fake_logits_gguf)
def logits_gguf(
    x: Tensor,
    x_scale: Tensor,
    x_sums: Tensor,  # noqa: ARG001 (follow from x)
    weight: Tensor,
    segments: Sequence[int],
    softcap: float | None,
    rows: int,  # noqa: ARG001
) -> Tensor:
    """Scores of every token of the vocabulary, (tokens, rows) float32: see `linear_gguf` and `logits`."""
    scores = _product(x, x_scale, weight, segments)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _product(x: Tensor, x_scale: Tensor, weight: Tensor, segments: Sequence[int]) -> Tensor:
    cols = x.shape[1]
    numbers = x * x_scale.to(torch.float64).repeat_interleave(cols // x_scale.shape[1], dim=1)
    return (numbers @ unpack_gguf(weight, segments, cols).to(torch.float64).t()).to(torch.float32)


def _native_embedding_gguf(
    token_ids: Tensor, weight: Tensor, segments: Sequence[int], scale: float, cols: int, dtype: torch.dtype
) -> Tensor:
    tokens = token_ids.shape[0]
    out = torch.empty((tokens, cols), dtype=dtype)
    _embedding_gguf(
        out.data_ptr(),
        token_ids.data_ptr(),
        weight.data_ptr(),
        tokens,
        segments[1],
        cols,
        segments[0],
        token_ids.dtype is torch.int64,
        scale,
        DTYPES[dtype],
    )
    return out


def _fake_embedding_gguf(
    token_ids: Tensor,
    weight: Tensor,
    segments: Sequence[int],  # noqa: ARG001
    scale: float,  # noqa: ARG001
    cols: int,
    dtype: torch.dtype,
) -> Tensor:
    return weight.new_empty((token_ids.shape[0], cols), dtype=dtype)


@op("embedding_gguf", native=_native_embedding_gguf, fake=_fake_embedding_gguf)
def embedding_gguf(
    token_ids: Tensor, weight: Tensor, segments: Sequence[int], scale: float, cols: int, dtype: torch.dtype
) -> Tensor:
    """Rows of a packed table of one segment, as numbers of `dtype`, times `scale`.

    Args:
        token_ids: (tokens,) int32 or int64.

    Returns: (tokens, cols).
    """
    rows = unpack_gguf(weight, segments, cols)[token_ids].to(dtype)
    return rows if scale == 1.0 else rows * scale
