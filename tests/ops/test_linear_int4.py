"""4-bit products against float64, from packing to every kind of scale."""

from __future__ import annotations

import pytest
import torch

from ozone.ops.linear_int4 import (
    allocate_int4,
    allocate_int4_scales,
    allocate_int4_zeros,
    linear_int4,
    pack_int4,
    pack_int4_scales,
    pack_int4_zeros,
    unpack_int4,
)


def _packed(*parts: torch.Tensor) -> torch.Tensor:
    packed = allocate_int4("test", sum(len(part) for part in parts), parts[0].shape[1])
    row = 0
    for part in parts:
        pack_int4(packed, row, part)
        row += len(part)
    return packed


def _integers(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randint(0, 16, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (47, 130), (48, 128), (100, 33), (160, 64)])
def test_packed_weights_unpack_to_what_they_were(rows: int, cols: int) -> None:
    weight = _integers(torch.Generator().manual_seed(rows), rows, cols)
    first = rows // 3
    packed = _packed(weight[:first], weight[first:])
    assert torch.equal(unpack_int4(packed, rows, cols), weight)


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group_size", [32, 64, 128, 200])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_products_equal_those_in_float64(
    tokens: int, dtype: torch.dtype, group_size: int, with_zeros: bool
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    rows, cols = 70, 200
    groups = -(-cols // group_size)
    x, weight = torch.randn(tokens, cols, generator=generator).to(dtype), _integers(generator, rows, cols)
    of_groups = torch.rand(rows, groups, generator=generator).to(torch.bfloat16)
    scales = allocate_int4_scales("test", rows, cols, group_size, of_groups.dtype)
    pack_int4_scales(scales, 0, of_groups)
    zeros, zero_points = None, torch.full((rows, groups), 8, dtype=torch.uint8)
    if with_zeros:
        zero_points = torch.randint(0, 17, (rows, groups), dtype=torch.uint8, generator=generator)
        zeros = allocate_int4_zeros("test", rows, cols, group_size)
        pack_int4_zeros(zeros, 0, zero_points)
    bias, residual = torch.randn(rows), torch.randn(tokens, rows).to(dtype)
    result = linear_int4(x, _packed(weight), scales, zeros, bias, residual, rows, group_size)
    shifted = weight.double() - zero_points.repeat_interleave(group_size, 1)[:, :cols]
    scaled = shifted * of_groups.double().repeat_interleave(group_size, 1)[:, :cols]
    expected = x.double() @ scaled.t() + bias + residual
    bound = (x.double().abs() @ scaled.abs().t() + bias.abs() + residual.abs()) * 4e-6
    bound += expected.abs() * torch.finfo(dtype).eps
    assert ((result - expected).abs() <= bound).all()
