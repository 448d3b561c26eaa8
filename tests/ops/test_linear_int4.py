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

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


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


@pytest.mark.parametrize(("group_size", "allowed"), [(12, False), (4096, False), (8192, True), (9000, True)])
def test_only_groups_that_kernels_take_are_allocated(group_size: int, allowed: bool) -> None:
    if allowed:
        assert allocate_int4_scales("test", 3, 8192, group_size, torch.float16).shape == (1, 1, 48)
    else:
        with pytest.raises(ValueError, match="group"):
            allocate_int4_scales("test", 3, 8192, group_size, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", [8, 32, 64, 128, 600, 1200])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_products_equal_those_in_float64(
    isa: str, dtype: torch.dtype, group_size: int, with_zeros: bool
) -> None:
    """To the rounding of float32 sums and the result's, whether few tokens or many are multiplied."""
    generator = torch.Generator().manual_seed(group_size)
    tokens, rows, cols = 21, 70, 1101
    groups = -(-cols // group_size)
    x, weight = torch.randn(tokens, cols, generator=generator).to(dtype), _integers(generator, rows, cols)
    of_groups = torch.rand(rows, groups, generator=generator).to(dtype)
    scales = allocate_int4_scales("test", rows, cols, group_size, of_groups.dtype)
    pack_int4_scales(scales, 0, of_groups)
    zeros, zero_points = None, torch.full((rows, groups), 8, dtype=torch.uint8)
    if with_zeros:
        zero_points = torch.randint(0, 17, (rows, groups), dtype=torch.uint8, generator=generator)
        zeros = allocate_int4_zeros("test", rows, cols, group_size)
        pack_int4_zeros(zeros, 0, zero_points)
    bias, residual = torch.randn(rows), torch.randn(tokens, rows).to(dtype)
    shifted = weight.double() - zero_points.repeat_interleave(group_size, 1)[:, :cols]
    scaled = shifted * of_groups.double().repeat_interleave(group_size, 1)[:, :cols]
    expected = x.double() @ scaled.t() + bias + residual
    bound = (x.double().abs() @ scaled.abs().t() + bias.abs() + residual.abs()) * 4e-6
    bound += expected.abs() * torch.finfo(dtype).eps
    packed = _packed(weight)
    for count in (0, 1, 2, 3, 5, 8, 9, tokens):
        result = linear_int4(x[:count], packed, scales, zeros, bias, residual[:count], rows, group_size)
        assert ((result - expected[:count]).abs() <= bound[:count]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", [32, 1504])
def test_a_row_has_the_same_bits_in_every_batch(isa: str, dtype: torch.dtype, group_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, cols = 150, 1504
    x, weight = (
        torch.randn(40, cols, generator=generator).to(dtype),
        _packed(_integers(generator, rows, cols)),
    )
    scales = torch.rand(4, -(-cols // group_size), 48, generator=generator)
    zeros = torch.randint(0, 17, scales.shape, dtype=torch.uint8, generator=generator)
    every = linear_int4(x, weight, scales, zeros, None, None, rows, group_size)
    for count in range(1, 20):
        few = linear_int4(x[:count], weight, scales, zeros, None, None, rows, group_size)
        assert torch.equal(few, every[:count])


def test_rows_of_a_wider_matrix_are_multiplied_in_place(isa: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(10, 200, generator=generator), _packed(_integers(generator, 50, 64))
    scales = torch.rand(2, 2, 48, generator=generator)
    view = x[:, 16:80]
    result = linear_int4(view, weight, scales, None, None, None, 50, 32)
    assert torch.equal(result, linear_int4(view.contiguous(), weight, scales, None, None, None, 50, 32))
