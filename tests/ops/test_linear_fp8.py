"""FP8 products against float64, from packing to every kind of scale."""

from __future__ import annotations

import pytest
import torch

from ozone.ops.linear_fp8 import (
    allocate_fp8,
    allocate_fp8_block_scales,
    linear_fp8,
    pack_fp8,
    pack_fp8_block_scales,
    unpack_fp8,
)
from ozone.ops.panels import unpack_groups

E4M3 = torch.float8_e4m3fn


def _grid(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Random e4m3 numbers of every exponent, subnormals and zeros among them; no NaN."""
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    bits[(bits & 0x7F) == 0x7F] = 0x81
    return bits.view(E4M3)


def _packed(*parts: torch.Tensor) -> torch.Tensor:
    packed = allocate_fp8("test", sum(len(part) for part in parts), parts[0].shape[1])
    row = 0
    for part in parts:
        pack_fp8(packed, row, part)
        row += len(part)
    return packed


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (47, 130), (48, 128), (100, 33), (160, 64)])
def test_packed_weights_unpack_to_what_they_were(rows: int, cols: int) -> None:
    weight = torch.arange(rows * cols).view(rows, cols).remainder(251).to(torch.uint8).view(E4M3)
    first = rows // 3
    packed = _packed(weight[:first], weight[first:])
    assert torch.equal(unpack_fp8(packed, rows, cols).view(torch.uint8), weight.view(torch.uint8))


def test_block_scales_reach_every_row_of_every_part() -> None:
    first, second = torch.rand(2, 3), torch.rand(1, 3)
    packed = allocate_fp8_block_scales("test", 240, 300)
    pack_fp8_block_scales(packed, 0, 200, first)
    pack_fp8_block_scales(packed, 200, 40, second)
    by_row = unpack_groups(packed, 240)
    assert torch.equal(by_row[:128], first[:1].expand(128, 3))
    assert torch.equal(by_row[128:200], first[1:].expand(72, 3))
    assert torch.equal(by_row[200:], second.expand(40, 3))


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("x_scaled", ["tensor", "token", "group"])
@pytest.mark.parametrize("blocks", [False, True])
def test_products_equal_those_in_float64(tokens: int, x_scaled: str, blocks: bool) -> None:
    generator = torch.Generator().manual_seed(tokens)
    rows, cols, groups = 70, 300, 3
    x, weight = _grid(generator, tokens, cols), _grid(generator, rows, cols)
    x_scale = torch.rand({"tensor": (1,), "token": (tokens, 1), "group": (tokens, groups)}[x_scaled])
    scaled_x = x.double()
    scaled_weight = weight.double()
    scaled_x *= x_scale.repeat_interleave(128, 1)[:, :cols] if x_scaled == "group" else x_scale
    if blocks:
        of_blocks = torch.rand(1, groups)
        weight_scale = allocate_fp8_block_scales("test", rows, cols)
        pack_fp8_block_scales(weight_scale, 0, rows, of_blocks)
        scaled_weight *= of_blocks.repeat_interleave(128, 1)[:, :cols]
    else:
        weight_scale = torch.rand(rows)
        scaled_weight *= weight_scale[:, None]
    bias, residual = torch.randn(rows), torch.randn(tokens, rows)
    result = linear_fp8(x, x_scale, _packed(weight), weight_scale, bias, residual, rows, torch.float32)
    expected = scaled_x @ scaled_weight.t() + bias + residual
    bound = (scaled_x.abs() @ scaled_weight.abs().t() + bias.abs() + residual.abs()) * 2e-6
    assert ((result - expected).abs() <= bound).all()
