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
from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

E4M3 = torch.float8_e4m3fn
SHAPES = [(1, 1), (47, 130), (48, 128), (100, 33), (160, 64)]


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


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_packed_weights_unpack_to_what_they_were(rows: int, cols: int) -> None:
    weight = torch.arange(rows * cols).view(rows, cols).remainder(251).to(torch.uint8).view(E4M3)
    first = rows // 3
    packed = _packed(weight[:first], weight[first:])
    assert torch.equal(unpack_fp8(packed, rows, cols).view(torch.uint8), weight.view(torch.uint8))


def test_parts_of_wider_matrices_are_packed_without_a_copy() -> None:
    weight = _grid(torch.Generator().manual_seed(0), 50, 200)
    assert torch.equal(unpack_fp8(_packed(weight[:, 8:90]), 50, 82).float(), weight[:, 8:90].float())


def test_more_columns_than_kernels_take_are_refused() -> None:
    with pytest.raises(ValueError, match="65,536"):
        allocate_fp8("test", 1, 65537)


def test_block_scales_reach_every_row_of_every_part() -> None:
    first, second = torch.rand(2, 3), torch.rand(1, 3)
    packed = allocate_fp8_block_scales("test", 240, 300)
    pack_fp8_block_scales(packed, 0, 200, first)
    pack_fp8_block_scales(packed, 200, 40, second)
    by_row = unpack_groups(packed, 240)
    assert torch.equal(by_row[:128], first[:1].expand(128, 3))
    assert torch.equal(by_row[128:200], first[1:].expand(72, 3))
    assert torch.equal(by_row[200:], second.expand(40, 3))


@pytest.mark.parametrize(("rows", "cols"), [(70, 300), (48, 7), (200, 1100), (1, 128)])
@pytest.mark.parametrize("x_scaled", ["tensor", "token", "group"])
@pytest.mark.parametrize("blocks", [False, True])
def test_products_equal_those_in_float64(isa: str, rows: int, cols: int, x_scaled: str, blocks: bool) -> None:
    """To the rounding of float32 sums, whether few tokens or many are multiplied."""
    generator = torch.Generator().manual_seed(cols)
    groups = -(-cols // 128)
    tokens = 21
    x, weight = _grid(generator, tokens, cols), _grid(generator, rows, cols)
    shape = {"tensor": (1,), "token": (tokens, 1), "group": (tokens, groups)}[x_scaled]
    x_scale = torch.rand(shape, generator=generator)
    scaled_x, scaled_weight = x.double(), weight.double()
    scaled_x *= x_scale.repeat_interleave(128, 1)[:, :cols] if x_scaled == "group" else x_scale
    if blocks:
        of_blocks = torch.rand(-(-rows // 128), groups, generator=generator)
        weight_scale = allocate_fp8_block_scales("test", rows, cols)
        pack_fp8_block_scales(weight_scale, 0, rows, of_blocks)
        by_row = of_blocks.repeat_interleave(128, 0)[:rows]
        scaled_weight *= by_row.repeat_interleave(128, 1)[:, :cols]
    else:
        weight_scale = torch.rand(rows, generator=generator)
        scaled_weight *= weight_scale[:, None]
    bias, residual = torch.randn(rows), torch.randn(tokens, rows)
    expected = scaled_x @ scaled_weight.t() + bias + residual
    bound = (scaled_x.abs() @ scaled_weight.abs().t() + bias.abs() + residual.abs()) * 2e-6
    packed = _packed(weight)
    for count in (0, 1, 2, 3, 5, 8, 9, tokens):
        scale = x_scale if x_scaled == "tensor" else x_scale[:count]
        result = linear_fp8(
            x[:count], scale, packed, weight_scale, bias, residual[:count], rows, torch.float32
        )
        assert ((result - expected[:count]).abs() <= bound[:count]).all()


@pytest.mark.parametrize("grouped", [False, True])
def test_a_row_has_the_same_bits_in_every_batch(isa: str, grouped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, cols = 150, 1500
    x, weight = _grid(generator, 40, cols), _packed(_grid(generator, rows, cols))
    x_scale = torch.rand(40, 12 if grouped else 1, generator=generator)
    weight_scale = torch.rand(rows, generator=generator)
    every = linear_fp8(x, x_scale, weight, weight_scale, None, None, rows, torch.float32)
    for count in range(1, 20):
        few = linear_fp8(x[:count], x_scale[:count], weight, weight_scale, None, None, rows, torch.float32)
        assert torch.equal(few, every[:count])


def test_every_pair_of_numbers_is_multiplied_exactly(isa: str) -> None:
    """All 254 numbers with each other, subnormals included."""
    bits = torch.arange(256, dtype=torch.uint8)
    numbers = bits[(bits & 0x7F) != 0x7F].view(E4M3)
    one = torch.ones(1)
    x, weight = numbers[:, None].contiguous(), _packed(numbers[:, None])
    result = linear_fp8(x, one, weight, one.expand(254).contiguous(), None, None, 254, torch.float32)
    assert torch.equal(result.double(), numbers.double()[:, None] * numbers.double())


@pytest.mark.parametrize("tokens", [1, 12])
def test_nan_stays_nan(isa: str, tokens: int) -> None:
    weight = torch.ones(60, 40).to(E4M3)
    weight.view(torch.uint8)[7, 3], weight.view(torch.uint8)[50, 39] = 0x7F, 0xFF
    x = torch.ones(tokens, 40).to(E4M3)
    one, scale = torch.ones(1), torch.ones(60)
    result = linear_fp8(x, one, _packed(weight), scale, None, None, 60, torch.float32)
    assert torch.equal(result.isnan().all(0).nonzero().flatten(), torch.tensor([7, 50]))
    assert result[:, :7].eq(40).all()
    x.view(torch.uint8)[0, 39] = 0x7F
    result = linear_fp8(x, one, _packed(weight), scale, None, None, 60, torch.float32)
    assert result[0].isnan().all() and not result[1:, 0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 20])
def test_results_are_rounded_once(isa: str, dtype: torch.dtype, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 64, generator=generator).to(E4M3) for n in (tokens, 50))
    scale, bias = torch.rand(50, generator=generator), torch.randn(50, generator=generator)
    residual = torch.randn(tokens, 50, generator=generator).to(dtype)
    arguments = (x, torch.rand(1), _packed(weight), scale, bias, residual, 50)
    exact = OPS["linear_fp8"].reference(*arguments, torch.float32)
    torch.testing.assert_close(
        linear_fp8(*arguments, dtype).float(), exact, rtol=torch.finfo(dtype).eps / 2 + 1e-6, atol=1e-5
    )
