"""Paged attention of decoding, prefill and both, and what rotates and writes to the KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

import ozone.ops.fused  # noqa: F401 (an import registers a family's ops)
from ozone.bench.kernels.cases import Call, Case, Work, copies_for
from ozone.bench.kernels.tensors import in_region, tensor_bytes
from ozone.ops.kv_cache import CacheLayout, KVCache, kv_write, rotary_embedding_kv_write
from ozone.ops.registry import OPS

_BF16 = torch.bfloat16
_BLOCK = 16
_ROTARY_POSITIONS = 4096


@dataclass(frozen=True)
class _Heads:
    """The attention of a model."""

    model: str
    heads: int
    kv_heads: int
    head_dim: int


_SMOLLM2 = _Heads("SmolLM2-135M", 9, 3, 64)
_LLAMA = _Heads("Llama-3.2-1B", 32, 8, 64)
_DTYPES = {"bf16": _BF16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class _Batch:
    """Requests as (positions in all, new ones among them)."""

    name: str
    requests: tuple[tuple[int, int], ...]


_DECODE = _Batch("1 x 4096", ((4096, 1),))
_DECODE_8 = _Batch("8 x 4096", ((4096, 1),) * 8)
_PREFILL = _Batch("prefill 512", ((512, 512),))
_CHUNK = _Batch("prefill 512 behind 3584", ((4096, 512),))
_MIXED = _Batch("31 x 1024 and prefill 256", (*((1024, 1),) * 31, (256, 256)))


def cases() -> Iterator[Case]:
    for heads in (_SMOLLM2, _LLAMA):
        for batch in (_DECODE, _DECODE_8, _PREFILL, _CHUNK, _MIXED):
            for name in _DTYPES if batch in (_DECODE, _DECODE_8) else ("bf16",):
                shape = f"{heads.model}, {batch.name}"
                yield Case("attention", name, shape, partial(_attention, heads, batch, _DTYPES[name]))
            # What `fuse_attn_quant` puts there for GGUF.
            fused = partial(_attention, heads, batch, _BF16, "attention_quantize_int8_group", 32)
            yield Case("attention_quantize_int8_group", "bf16", f"{heads.model}, {batch.name}", fused)
    for tokens in (1, 32, 512):
        shape = f"{_LLAMA.model}, {tokens} tokens"
        yield Case("rotary_embedding", "bf16", shape, partial(_rotary, tokens))
        for name, dtype in _DTYPES.items():
            yield Case("kv_write", name, shape, partial(_write, tokens, dtype))
            yield Case("rotary_embedding_kv_write", name, shape, partial(_rotary_write, tokens, dtype))


# ---- attention ----


def _attention(
    heads: _Heads, batch: _Batch, dtype: torch.dtype, op: str = "attention", *quantization: object
) -> Work:
    """`quantization`: arguments of an op that quantizes the result."""
    per_position = 2 * heads.kv_heads * heads.head_dim
    lengths = [length for length, _ in batch.requests]
    size = sum(lengths) * (per_position * dtype.itemsize + _scale_bytes(heads, dtype))
    blocks = [-(-length // _BLOCK) for length in lengths]
    copies = copies_for(size)
    cache, scales = _cache(heads, dtype, copies * sum(blocks))
    # Blocks of a running engine lie anywhere.
    order = torch.randperm(copies * sum(blocks), dtype=torch.int32)
    tokens = sum(new for _, new in batch.requests)
    q = torch.randn(tokens, heads.heads, heads.head_dim).to(_BF16)
    starts = torch.tensor([0] + [new for _, new in batch.requests]).cumsum(0).to(torch.int32)
    seq_lens = torch.tensor(lengths, dtype=torch.int32)
    none, scale, function = torch.empty(0), heads.head_dim**-0.5, OPS[op].call

    def call(tables: Tensor) -> object:
        contexts = (tables, starts, seq_lens, scale, None, None)
        return function(q, cache.keys, cache.values, scales, none, *contexts, *quantization)

    calls = [partial(call, _tables(ids, blocks)) for ids in torch.split(order, sum(blocks))]
    alone = len(batch.requests) == 1
    # A new token sees all positions up to its own.
    seen = sum(new * length - new * (new - 1) // 2 for length, new in batch.requests)
    return Work(
        calls,
        bytes=size,
        operations=4 * heads.heads * heads.head_dim * seen,
        product="bf16",
        peers=_sdpa(heads, batch, copies) if op == "attention" and dtype is _BF16 and alone else {},
    )


def _cache(heads: _Heads, dtype: torch.dtype, num_blocks: int) -> tuple[KVCache, Tensor | None]:
    cache = CacheLayout(num_blocks, _BLOCK, heads.kv_heads, heads.head_dim, dtype).allocate("bench")
    for part in (cache.keys, cache.values):
        numbers = torch.randn(part[:1].shape).to(dtype)
        part.view(torch.uint8).copy_(numbers.view(torch.uint8))
    if cache.scales is not None:
        cache.scales.fill_(0.01)
    return cache, torch.ones(2) if dtype is torch.float8_e4m3fn else cache.scales


def _scale_bytes(heads: _Heads, dtype: torch.dtype) -> int:
    """Bytes of the scales of a position, keys and values."""
    return 2 * heads.kv_heads * 4 if dtype is torch.int8 else 0


def _tables(ids: Tensor, blocks: Sequence[int]) -> Tensor:
    """(requests, blocks of the longest): which blocks hold each request."""
    tables = torch.zeros(len(blocks), max(blocks), dtype=torch.int32)
    for row, own in zip(tables, torch.split(ids, list(blocks)), strict=True):
        row[: len(own)] = own
    return tables


def _sdpa(heads: _Heads, batch: _Batch, copies: int) -> dict[str, list[Call]]:
    """Torch's attention of one request over dense keys and values, gathered beforehand."""
    ((length, new),) = batch.requests
    q = torch.randn(1, heads.heads, new, heads.head_dim).to(_BF16)
    keys_and_values = torch.randn(2, 1, heads.kv_heads, length, heads.head_dim).to(_BF16)
    mask = None
    if 1 < new < length:
        mask = torch.ones(new, length, dtype=torch.bool).tril(length - new)

    def call(copy: Tensor) -> object:
        causal = new == length
        return functional.scaled_dot_product_attention(
            q, copy[0], copy[1], attn_mask=mask, is_causal=causal, enable_gqa=True
        )

    return {"ATen": [partial(call, in_region(keys_and_values)) for _ in range(copies)]}


# ---- rotating and writing ----


def _qkv(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of one wide matrix, as a merged product gives them."""
    counts = [_LLAMA.heads, _LLAMA.kv_heads, _LLAMA.kv_heads]
    q, k, v = torch.split(torch.randn(tokens, sum(counts), _LLAMA.head_dim).to(_BF16), counts, 1)
    return q, k, v


def _angles(tokens: int) -> tuple[Tensor, Tensor]:
    """Positions, and the table of cosines and sines."""
    return torch.arange(tokens, dtype=torch.int32), torch.randn(_ROTARY_POSITIONS, _LLAMA.head_dim)


def _rotary(tokens: int) -> Work:
    q, k, _ = _qkv(tokens)
    call = partial(OPS["rotary_embedding"].call, q, k, *_angles(tokens), False)
    return Work([call], touched=2 * (tensor_bytes(q) + tensor_bytes(k)))


def _write(tokens: int, dtype: torch.dtype) -> Work:
    _, k, v = _qkv(tokens)
    cache, scales = _cache(_LLAMA, dtype, -(-tokens // _BLOCK))
    slots = torch.arange(tokens)
    call = partial(kv_write, k, v, cache.keys, cache.values, scales, slots)
    return Work([call], touched=2 * tokens * k[0].numel() * (2 + dtype.itemsize))


def _rotary_write(tokens: int, dtype: torch.dtype) -> Work:
    q, k, v = _qkv(tokens)
    cache, scales = _cache(_LLAMA, dtype, -(-tokens // _BLOCK))
    slots = torch.arange(tokens)
    angles = _angles(tokens)
    call = partial(
        rotary_embedding_kv_write, q, k, v, *angles, False, cache.keys, cache.values, scales, slots
    )
    return Work([call], touched=2 * tensor_bytes(q) + 2 * tokens * k[0].numel() * (2 + dtype.itemsize))
