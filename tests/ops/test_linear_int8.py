"""Products of int8 matrices against exact integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ozone.ops.linear_int8 import linear_int8, pack_int8, unpack_int8
from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _integers(*shape: int) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


def _reference(*arguments: object) -> Tensor:
    result: Tensor = OPS["linear_int8"].reference(*arguments)
    return result


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 5, 8, 9, 16, 17, 40, 131])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (48, 64), (50, 67), (131, 576), (300, 1030)])
def test_products_equal_the_reference_bit_for_bit(isa: str, tokens: int, rows: int, cols: int) -> None:
    """The sum is an exact integer, and what follows is one fixed series of float32 operations."""
    dtype = DTYPES[(tokens + rows) % 3]
    x, weight = _integers(tokens, cols), _integers(rows, cols)
    scales = torch.rand(tokens, 1), torch.rand(rows)
    bias, residual = torch.randn(rows) * 100, (torch.randn(tokens, rows) * 100).to(dtype)
    for arguments in (
        (x, scales[0], pack_int8([weight]), scales[1], bias, residual, rows, dtype),
        (x, torch.rand(1), pack_int8([weight]), scales[1], None, None, rows, dtype),
    ):
        assert torch.equal(linear_int8(*arguments), _reference(*arguments))


@pytest.mark.parametrize("tokens", [1, 20])
def test_extreme_values_do_not_saturate(isa: str, tokens: int) -> None:
    cols = 40000
    x = torch.full((tokens, cols), -128, dtype=torch.int8)
    weight = torch.stack([torch.full((cols,), value, dtype=torch.int8) for value in (-128, 127)])
    weight = weight.repeat(25, 1)
    out = linear_int8(x, torch.ones(1), pack_int8([weight]), torch.ones(50), None, None, 50, torch.float32)
    expected = torch.tensor([128.0 * 128 * cols, -128.0 * 127 * cols]).repeat(25)
    assert torch.equal(out, expected.expand(tokens, -1))


def test_batches_too_large_for_a_cache_are_multiplied_in_blocks(isa: str) -> None:
    x, weight = _integers(140, 9001), _integers(50, 9001)
    arguments = (x, torch.rand(140, 1), pack_int8([weight]), torch.rand(50), None, None, 50, torch.float32)
    assert torch.equal(linear_int8(*arguments), _reference(*arguments))


@pytest.mark.parametrize("tokens", [1, 70, 450])
def test_any_number_of_threads_gives_the_same_numbers(
    tokens: int, set_num_threads: Callable[[int], None]
) -> None:
    x, weight = _integers(tokens, 300), _integers(400, 300)
    arguments = (
        x,
        torch.rand(tokens, 1),
        pack_int8([weight]),
        torch.rand(400),
        None,
        None,
        400,
        torch.float32,
    )
    for threads in (1, 2, 3, 7):
        set_num_threads(threads)
        assert torch.equal(linear_int8(*arguments), _reference(*arguments))


def test_stacked_parts_keep_their_rows() -> None:
    parts = [_integers(rows, 30) for rows in (50, 3, 97)]
    packed = pack_int8(parts)
    assert packed.shape == (4, 8, 48, 4)
    assert torch.equal(unpack_int8(packed, 150, 30), torch.cat(parts))
