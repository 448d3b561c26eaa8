"""The KV cache: what is written where, natively on every instruction set as by the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from attention_batches import FP8_SCALES, slots_of
from torch import Tensor

from ozone.errors import ConfigError
from ozone.native import library
from ozone.ops.kv_cache import CacheLayout, KVCache, kv_write
from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CACHE_DTYPES = [*DTYPES, torch.int8, torch.float8_e4m3fn]


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _cache(layout: CacheLayout) -> tuple[KVCache, Tensor | None]:
    cache = layout.allocate("test")
    return cache, torch.tensor(FP8_SCALES) if layout.dtype == torch.float8_e4m3fn else cache.scales


def _bits(cache: KVCache) -> list[Tensor]:
    return [part.contiguous().view(torch.uint8) for part in cache if part is not None]


def _assert_same(ours: KVCache, theirs: KVCache) -> None:
    for one, other in zip(_bits(ours), _bits(theirs), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads of the native team."""
    native = library()
    assert native is not None
    before = native.num_threads()
    yield native.set_num_threads
    native.set_num_threads(before)


@pytest.mark.parametrize("op", ["call", "reference"])
def test_kv_write_touches_only_its_slots(op: str) -> None:
    (keys, values, _), _ = _cache(CacheLayout(3, 32, 2, 8, torch.bfloat16))
    k, v = _randn(2, 2, 8).bfloat16(), _randn(2, 2, 8).bfloat16() + 1
    token = getattr(OPS["kv_write"], op)(k, v, keys, values, None, torch.tensor([32 + 21, 3]))
    assert token.numel() == 0
    assert torch.equal(keys[1, :, 1, :4, 5], k[0].view(2, 4, 2))
    assert torch.equal(keys[0, :, 0, :4, 3], k[1].view(2, 4, 2))
    assert torch.equal(values[1, :, 1, 2, :8, 1], v[0])
    assert torch.equal(values[0, :, 0, 1, :8, 1], v[1])
    for part in (keys, values):
        assert part.count_nonzero() == 2 * 2 * 8


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "block_size"), [(64, 16), (80, 32), (20, 48), (1, 16)])
def test_kv_write_gives_the_bits_of_its_reference(
    isa: str, head_dim: int, block_size: int, dtype: torch.dtype, cache_dtype: torch.dtype
) -> None:
    layout = CacheLayout(7, block_size, 3, head_dim, cache_dtype)
    merged = _randn(41, 9, head_dim, dtype=dtype) * 3
    merged[7, 3] = 0.0
    merged[8, 4] *= 1e-4
    slots = torch.randperm(7 * block_size, generator=torch.Generator().manual_seed(1))[:41]
    caches = []
    for write in (OPS["kv_write"].call, OPS["kv_write"].reference):
        cache, scales = _cache(layout)
        write(merged[:, 3:6], merged[:, 6:], cache.keys, cache.values, scales, slots)
        caches.append(cache)
    _assert_same(*caches)


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
def test_ranks_may_write_to_neighbouring_positions(
    threads: Callable[[int], None], cache_dtype: torch.dtype
) -> None:
    threads(3)
    layout = CacheLayout(40, 16, 3, 64, cache_dtype)
    k, v, slots = _randn(601, 3, 64), _randn(601, 3, 64), slots_of(torch.arange(40), torch.arange(601), 16)
    (ours, scales), (theirs, other_scales) = _cache(layout), _cache(layout)
    kv_write(k, v, ours.keys, ours.values, scales, slots)
    OPS["kv_write"].reference(k, v, theirs.keys, theirs.values, other_scales, slots)
    _assert_same(ours, theirs)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("op", ["call", "reference"])
def test_a_head_that_is_not_finite_is_not_in_an_int8_cache_either(op: str, broken: float) -> None:
    cache, _ = _cache(CacheLayout(1, 16, 2, 64, torch.int8))
    k, v = _randn(1, 2, 64), _randn(1, 2, 64)
    k[0, 0, 3], v[0, 1, 60] = broken, broken
    getattr(OPS["kv_write"], op)(k, v, *cache, torch.tensor([2]))
    assert cache.scales is not None
    finite = cache.scales[0, :, 0, :, 2].isfinite()
    assert finite.tolist() == [[False, True], [True, False]]


def test_e4m3_saturates_and_keeps_nan(isa: str) -> None:
    cache, _ = _cache(CacheLayout(1, 16, 1, 16, torch.float8_e4m3fn))
    k = torch.tensor([1000.0, -1000.0, math.nan, 0.001] * 4).view(1, 1, 16)
    kv_write(k, k, cache.keys, cache.values, torch.tensor([1.0, 0.5]), torch.tensor([0]))
    row = cache.values[0, 0, 0, 0, :4, 0].float()
    assert row[:2].tolist() == [448.0, -448.0]
    assert row[2].isnan()
    assert row[3] == 2.0**-9


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_fused_writes_give_the_bits_of_their_parts(
    isa: str, norm: bool, interleaved: bool, dtype: torch.dtype, cache_dtype: torch.dtype
) -> None:
    layout, head_dim = CacheLayout(4, 16, 2, 72, cache_dtype), 72
    merged = _randn(30, 10, head_dim, dtype=dtype)
    q, k, v = merged.split([6, 2, 2], dim=1)
    weights = (_randn(head_dim), _randn(head_dim) + 1)
    angles = _randn(50, 24)
    tail = (torch.arange(30) + 9, torch.cat((angles.cos(), angles.sin()), 1), interleaved)
    slots = slots_of(torch.tensor([3, 1, 0]), torch.arange(30), 16)
    (ours, scales), (theirs, other_scales) = _cache(layout), _cache(layout)
    arguments = (*weights, 1e-6, *tail) if norm else tail
    name = "qk_norm_rotary_embedding" if norm else "rotary_embedding"
    fused_q, token = OPS[f"{name}_kv_write"].call(q, k, v, *arguments, ours.keys, ours.values, scales, slots)
    new_q, new_k = OPS[name].call(q, k, *arguments)
    kv_write(new_k, v, theirs.keys, theirs.values, other_scales, slots)
    assert token.numel() == 0
    assert torch.equal(fused_q, new_q)
    _assert_same(ours, theirs)


def test_heads_wider_than_kernels_have_room_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="attention heads of 1025 columns"):
        CacheLayout(1, 16, 1, 1025, torch.float32).allocate("test")
