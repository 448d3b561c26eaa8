"""Products with GGUF's block types against the numbers of the `gguf` package, in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray
from torch import Tensor

from ozone.ops.linear_gguf import (
    GGUF_PACKINGS,
    embedding_gguf,
    gguf_segments,
    linear_gguf,
    logits_gguf,
    pack_gguf,
    unpack_gguf,
)
from ozone.ops.quantize import quantize_int8_group
from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

_HALVES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _blocks(kind: str, rows: int, cols: int) -> NDArray[np.uint8]:
    """Random blocks of `rows` rows: (rows, bytes)."""
    packing = GGUF_PACKINGS[kind]
    rng = np.random.default_rng(rows * 7 + cols)
    blocks = rng.integers(0, 256, (rows * cols // packing.block_cols, packing.block_bytes), dtype=np.uint8)
    for at in _HALVES.get(kind, (0, 2) if kind.endswith("_1") else (0,)):
        numbers = rng.normal(size=(len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = numbers.view(np.uint8)
    return blocks.reshape(rows, -1)


def _numbers(kind: str, blocks: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", GGUF_PACKINGS)
def test_packing_loses_nothing(isa: str, kind: str) -> None:
    blocks = _blocks(kind, 101, 512)
    packed = pack_gguf([(kind, blocks)], 512)
    assert packed.numel() <= blocks.size / 101 * 144 * 1.03
    unpacked = unpack_gguf(packed, gguf_segments([(kind, 101)]), 512)
    assert torch.equal(unpacked, _numbers(kind, blocks))


def _check(
    parts: list[tuple[str, int]], tokens: int, cols: int, group: int = 32, dtype: torch.dtype = torch.float32
) -> None:
    blocks = [(kind, _blocks(kind, rows, cols)) for kind, rows in parts]
    weight = torch.cat([_numbers(kind, data) for kind, data in blocks])
    rows = len(weight)
    # Columns of unlike sizes, so that no group can stand for another, and with a mean, for the minimums.
    x = (torch.randn(tokens, cols) + 0.5) * torch.rand(cols) * 2
    integers, scale, sums = quantize_int8_group(x.to(dtype), group)
    bias, residual = torch.randn(rows) * 10, (torch.randn(tokens, rows) * 10).to(dtype)
    arguments = (integers, scale, sums, pack_gguf(blocks, cols), gguf_segments(parts))
    result = linear_gguf(*arguments, bias, residual, rows, dtype)
    exact = integers.double() * scale.double().repeat_interleave(group, 1)
    expected = exact @ weight.double().T
    # What rounding in float32 may change: a few parts in 10^7 of the sum of the terms' sizes.
    slack = (exact.abs() @ weight.double().abs().T) * 4e-7
    plain = linear_gguf(*arguments, None, None, rows, torch.float32)
    assert ((plain - expected).abs() <= slack).all()
    with_both = expected + bias + residual
    rounding = with_both.abs() * torch.finfo(dtype).eps
    assert result.dtype == dtype and result.shape == (tokens, rows)
    assert ((result.double() - with_both).abs() <= slack + rounding).all()
    capped = logits_gguf(*arguments, 30.0, rows)
    assert ((capped - 30 * torch.tanh(expected / 30)).abs() <= slack + 1e-4).all()


@pytest.mark.parametrize("kind", GGUF_PACKINGS)
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 5, 8, 13, 16, 17, 65])
def test_products_equal_those_of_the_dequantized_weights(isa: str, kind: str, tokens: int) -> None:
    _check([(kind, [49, 1, 144][tokens % 3])], tokens, [256, 1024][tokens % 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cols", [32, 96, 576])
def test_blocks_of_32_columns_need_no_more_than_their_multiples(
    isa: str, cols: int, dtype: torch.dtype
) -> None:
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        _check([(kind, 60)], 4, cols, dtype=dtype)


@pytest.mark.parametrize("tokens", [1, 20])
def test_parts_of_unlike_types_are_one_product(isa: str, tokens: int) -> None:
    _check([("Q4_K", 70), ("Q4_K", 30), ("Q6_K", 20)], tokens, 512, dtype=torch.bfloat16)
    _check([("Q5_0", 48), ("Q4_1", 47), ("Q8_0", 1)], tokens, 512, dtype=torch.float16)


@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q6_K"])
def test_activations_may_share_a_scale_over_256_columns(isa: str, kind: str) -> None:
    _check([(kind, 50)], 3, 768, group=256)


def test_batches_too_large_for_a_cache_are_multiplied_in_blocks(isa: str) -> None:
    _check([("Q4_1", 60), ("Q8_0", 50)], 150, 4096)


@pytest.mark.parametrize("kind", GGUF_PACKINGS)
def test_a_row_of_a_batch_equals_the_row_alone(isa: str, kind: str) -> None:
    packed, segments = pack_gguf([(kind, _blocks(kind, 96, 512))], 512), gguf_segments([(kind, 96)])
    quantized = quantize_int8_group(torch.randn(70, 512), 32)
    whole = linear_gguf(*quantized, packed, segments, None, None, 96, torch.float32)
    for first, last in ((0, 1), (1, 3), (3, 10), (10, 30), (5, 69)):
        some = (part[first:last] for part in quantized)
        part = linear_gguf(*some, packed, segments, None, None, 96, torch.float32)
        assert torch.equal(part, whole[first:last])


@pytest.mark.parametrize("tokens", [1, 40, 100, 450])
def test_any_number_of_threads_gives_the_same_numbers(
    tokens: int, set_num_threads: Callable[[int], None]
) -> None:
    parts = [("Q4_K", 100), ("Q6_K", 60)]
    packed = pack_gguf([(kind, _blocks(kind, rows, 512)) for kind, rows in parts], 512)
    quantized = quantize_int8_group(torch.randn(tokens, 512), 32)
    results = []
    for threads in (1, 2, 3, 7):
        set_num_threads(threads)
        results.append(linear_gguf(*quantized, packed, gguf_segments(parts), None, None, 160, torch.float32))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("kind", GGUF_PACKINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_tables_are_their_numbers_rounded_once(isa: str, kind: str, dtype: torch.dtype) -> None:
    blocks = _blocks(kind, 53, 512)
    table = (pack_gguf([(kind, blocks)], 512), gguf_segments([(kind, 53)]))
    for ids in (
        torch.tensor([52, 0, 7, 7]),
        torch.tensor([48], dtype=torch.int32),
        torch.tensor([], dtype=int),
    ):
        for scale in (1.0, 24.0):
            arguments = (ids, *table, scale, 512, dtype)
            expected = _numbers(kind, blocks)[ids].to(dtype) * scale
            assert torch.equal(embedding_gguf(*arguments), expected)
            assert torch.equal(OPS["embedding_gguf"].reference(*arguments), expected)


def test_more_types_than_a_launch_takes_are_refused() -> None:
    assert gguf_segments([("Q4_0", 3), ("Q4_0", 2), ("Q8_0", 1)]) == [2, 5, 8, 1]
    with pytest.raises(ValueError, match="4 types"):
        gguf_segments([("Q4_0", 1), ("Q8_0", 1), ("Q4_0", 1), ("Q6_K", 1)])
