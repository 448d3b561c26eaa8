"""Batches of requests with their caches, and attention over them that looks like its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ozone.ops.attention import attention
from ozone.ops.kv_cache import CacheLayout, KVCache, kv_write
from ozone.ops.registry import OPS

FP8_SCALES = (0.02, 0.03)


@dataclass
class Batch:
    """Requests as (positions in all, new ones among them), their caches filled at scattered blocks."""

    requests: list[tuple[int, int]]
    q: Tensor
    cache: KVCache
    scales: Tensor | None
    keys: list[Tensor]
    values: list[Tensor]
    block_tables: Tensor

    @property
    def query_start_loc(self) -> Tensor:
        counts = torch.tensor([0] + [new for _, new in self.requests])
        return counts.cumsum(0).to(torch.int32)

    @property
    def seq_lens(self) -> Tensor:
        return torch.tensor([length for length, _ in self.requests], dtype=torch.int32)

    def arguments(self) -> tuple[Tensor | None, ...]:
        """Of the op, up to the scale."""
        return (
            self.q,
            self.cache.keys,
            self.cache.values,
            self.scales,
            torch.empty(0),
            self.block_tables,
            self.query_start_loc,
            self.seq_lens,
        )

    def attend(
        self,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        op: Callable[..., Tensor] = attention,
    ) -> Tensor:
        """What the op gives, by heads: (tokens, heads, head_dim)."""
        return op(*self.arguments(), scale, window, softcap).view(self.q.shape)

    def poison(self, blocks: Tensor) -> None:
        """NaN for all that these blocks hold."""
        for part in (self.cache.keys, self.cache.values):
            if part.dtype.itemsize == 1:
                part.view(torch.uint8)[blocks] = 0x7F
            else:
                part[blocks] = math.nan
        if self.cache.scales is not None:
            self.cache.scales[blocks] = math.nan


def make_batch(
    requests: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Batch:
    """Requests with normally distributed q, k and v; `keys` and `values` are what the cache holds of them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    cache_dtype = cache_dtype or dtype
    blocks = [-(-length // block_size) for length, _ in requests]
    num_blocks = sum(blocks) + 3
    cache = CacheLayout(num_blocks, block_size, kv_heads, head_dim, cache_dtype).allocate("test")
    scales = torch.tensor(FP8_SCALES) if cache_dtype == torch.float8_e4m3fn else cache.scales
    ids = torch.randperm(num_blocks, generator=generator)
    q = normal(sum(new for _, new in requests), heads, head_dim)
    batch = Batch(requests, q, cache, scales, [], [], torch.empty(0))
    # What nobody wrote is NaN, so that looking at it shows.
    batch.poison(torch.arange(num_blocks))
    tables = torch.full((len(requests), max(blocks) + 2), int(ids[-1]), dtype=torch.int32)
    for row, (length, _) in enumerate(requests):
        own, ids = ids[: blocks[row]], ids[blocks[row] :]
        tables[row, : len(own)] = own
        k, v = normal(length, kv_heads, head_dim), normal(length, kv_heads, head_dim)
        slots = slots_of(own, torch.arange(length), block_size)
        kv_write(k, v, cache.keys, cache.values, scales, slots)
        batch.keys.append(as_cached(k, cache_dtype, 0))
        batch.values.append(as_cached(v, cache_dtype, 1))
    batch.block_tables = tables
    return batch


def slots_of(blocks: Tensor, positions: Tensor, block_size: int) -> Tensor:
    return blocks[positions // block_size] * block_size + positions % block_size


def as_cached(x: Tensor, dtype: torch.dtype, part: int) -> Tensor:
    """Keys (part 0) or values (1) as a cache of that type gives them back, in double precision."""
    if dtype == torch.int8:
        codes, scale = OPS["quantize_int8_token"].reference(x)
        return codes.double() * scale.double()
    if dtype == torch.float8_e4m3fn:
        scale = torch.tensor(FP8_SCALES[part])
        return OPS["quantize_fp8_static"].reference(x, scale).double() * scale.double()
    return x.to(dtype).double()


def naive(batch: Batch, scale: float, window: int | None = None, softcap: float | None = None) -> Tensor:
    """Attention in double precision, over what the cache holds."""
    rows = []
    first = 0
    for (length, new), k, v in zip(batch.requests, batch.keys, batch.values, strict=True):
        q = batch.q[first : first + new].double()
        first += new
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = torch.einsum("thd,shd->hts", q, k) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        positions, keys = torch.arange(length - new, length)[:, None], torch.arange(length)
        seen = keys <= positions
        if window is not None:
            seen &= keys > positions - window
        scores = scores.masked_fill(~seen, -math.inf)
        rows.append(torch.einsum("hts,shd->thd", scores.softmax(-1), v))
    return torch.cat(rows)
