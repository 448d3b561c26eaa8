"""GGUF block types, decoded to plain numbers at load.

A block holds small integers and the numbers to scale them with. Each type is one function that takes a
(blocks, bytes) tensor apart into integers, scales and offsets; the arithmetic after that is shared and is
done in float32, so that float32 results equal those of the `gguf` package bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ozone.layers.checkpoint import Decoder

# Elements decoded at a time: few enough for the intermediates to stay in a cache, many enough for threads
# that decode side by side not to queue for the interpreter between ops.
_CHUNK = 1 << 18


class Parts(NamedTuple):
    """Blocks taken apart: ``integers * scales + offsets`` are their elements.

    Attributes:
        integers: (blocks, groups, elements of a group), uint8 or int8.
        scales: (blocks, groups) float32.
        offsets: like `scales`, or None.
    """

    integers: Tensor
    scales: Tensor
    offsets: Tensor | None = None


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block, (blocks, 1) float32."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).to(torch.float32)


def _fields(packed: Tensor, bits: int, count: int) -> Tensor:
    """Fields of `bits` bits, lowest first: (..., bytes) -> (..., count, bytes)."""
    fields = packed.new_empty((*packed.shape[:-1], count, packed.shape[-1]))
    for i in range(count):
        field = fields.select(-2, i)
        if (i + 1) * bits == 8:
            torch.bitwise_right_shift(packed, i * bits, out=field)
        elif i == 0:
            torch.bitwise_and(packed, (1 << bits) - 1, out=field)
        else:
            torch.bitwise_right_shift(packed, i * bits, out=field)
            field.bitwise_and_((1 << bits) - 1)
    return fields


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """32 bits at byte `at` of each block, each in place as the fifth bit: (blocks, 1, 32) uint8."""
    bits = _fields(blocks[:, at : at + 4], 1, 8)
    return bits.transpose(1, 2).reshape(-1, 1, 32) << 4


def _q4_0(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, 2:], 4, 2).view(-1, 1, 32).view(torch.int8)
    return Parts(integers.sub_(8), _half(blocks, 0))


def _q4_1(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, 4:], 4, 2).view(-1, 1, 32)
    return Parts(integers, _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, 6:], 4, 2).view(-1, 1, 32).bitwise_or_(_fifth_bits(blocks, 2))
    return Parts(integers.view(torch.int8).sub_(16), _half(blocks, 0))


def _q5_1(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, 8:], 4, 2).view(-1, 1, 32).bitwise_or_(_fifth_bits(blocks, 4))
    return Parts(integers, _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: Tensor) -> Parts:
    return Parts(blocks[:, 2:].unsqueeze(1).view(torch.int8), _half(blocks, 0))


def _q2_k(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, 16:80].view(-1, 2, 32), 2, 4).view(-1, 16, 16)
    factors = _fields(blocks[:, :16], 4, 2).to(torch.float32)
    scales = _half(blocks, 80) * factors[:, 0]
    offsets = _half(blocks, 82) * factors[:, 1]
    return Parts(integers, scales, offsets.neg_())


def _q3_k(blocks: Tensor) -> Parts:
    # The third bit is stored inverted: 4 is subtracted where it is 0.
    low = _fields(blocks[:, 32:96].view(-1, 2, 32), 2, 4).view(-1, 8, 32)
    high = _fields(blocks[:, :32], 1, 8) << 2
    integers = low.bitwise_or_(high).view(torch.int8).sub_(4)
    six_bits = _fields(blocks[:, 96:104], 4, 2).view(-1, 16)
    six_bits |= _fields(blocks[:, 104:108], 2, 4).view(-1, 16) << 4
    scales = _half(blocks, 108) * six_bits.view(torch.int8).sub_(32).to(torch.float32)
    return Parts(integers.view(-1, 16, 16), scales)


def _k_scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and offsets of the 8 groups of a Q4_K or Q5_K block, which begins with two float16 and 12 bytes
    of 6-bit factors: (blocks, 8) each.
    """
    first, second, third = torch.split(blocks[:, 4:16], 4, dim=1)
    high_first, high_second = first >> 6 << 4, second >> 6 << 4
    scales = torch.cat((first & 63, (third & 15) | high_first), dim=1).to(torch.float32)
    offsets = torch.cat((second & 63, (third >> 4) | high_second), dim=1).to(torch.float32)
    return _half(blocks, 0) * scales, (_half(blocks, 2) * offsets).neg_()


def _q4_k(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, 16:].view(-1, 4, 32), 4, 2).view(-1, 8, 32)
    return Parts(integers, *_k_scales(blocks))


def _q5_k(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, 48:].view(-1, 4, 32), 4, 2).view(-1, 8, 32)
    integers |= _fields(blocks[:, 16:48], 1, 8) << 4
    return Parts(integers, *_k_scales(blocks))


def _q6_k(blocks: Tensor) -> Parts:
    integers = _fields(blocks[:, :128].view(-1, 2, 64), 4, 2).view(-1, 8, 32)
    integers |= _fields(blocks[:, 128:192].view(-1, 2, 32), 2, 4).view(-1, 8, 32) << 4
    scales = _half(blocks, 208) * blocks[:, 192:208].view(torch.int8).to(torch.float32)
    return Parts(integers.view(torch.int8).sub_(32).view(-1, 16, 16), scales)


def _decoder(block_elements: int, block_bytes: int, take_apart: Callable[[Tensor], Parts]) -> Decoder:
    blocks_at_a_time = _CHUNK // block_elements

    def decode(data: NDArray[np.uint8], out: Tensor) -> None:
        rows = data.reshape(-1, block_bytes)
        values = out.view(-1, block_elements)
        for start in range(0, len(rows), blocks_at_a_time):
            # A copy, because files are mapped read-only and torch wants writable memory.
            chunk = torch.from_numpy(rows[start : start + blocks_at_a_time].copy())
            integers, scales, offsets = take_apart(chunk)
            result = integers.to(torch.float32).mul_(scales.unsqueeze(-1))
            if offsets is not None:
                result.add_(offsets.unsqueeze(-1))
            values[start : start + len(chunk)].copy_(result.view(len(chunk), -1))

    return Decoder(block_elements, block_bytes, decode)


DECODERS = {
    "Q4_0": _decoder(32, 18, _q4_0),
    "Q4_1": _decoder(32, 20, _q4_1),
    "Q5_0": _decoder(32, 22, _q5_0),
    "Q5_1": _decoder(32, 24, _q5_1),
    "Q8_0": _decoder(32, 34, _q8_0),
    "Q2_K": _decoder(256, 84, _q2_k),
    "Q3_K": _decoder(256, 110, _q3_k),
    "Q4_K": _decoder(256, 144, _q4_k),
    "Q5_K": _decoder(256, 176, _q5_k),
    "Q6_K": _decoder(256, 210, _q6_k),
}
