"""The paged KV cache: how it lies in memory, and the ops with state, which write to it.

A cache has two tensors, whose last four dimensions are dense. 16 positions of one head are a tile; `pack`
neighbours, which one step of a dot product takes, lie side by side (2 of bfloat16, 4 of 8-bit types, 1 of
others); columns are those of a head, padded to a multiple of 16 with zeros:

    keys:    (num_blocks, kv_heads, tiles, columns / pack, 16 positions, pack)
    values:  (num_blocks, kv_heads, tiles, 16 positions / pack, columns, pack)

8-bit caches store numbers divided by scales, which are a tensor of their own: int8 has one for each position
and KV head, written with it, (num_blocks, kv_heads, tiles, keys and values, 16 positions) float32;
float8_e4m3fn has (2,) float32, of all keys and of all values, which a checkpoint may give.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ozone.errors import ConfigError
from ozone.native import allocate, kernel
from ozone.native.dtypes import CACHE_DTYPE_CODES
from ozone.ops.quantize import quantize_fp8_static, quantize_int8_token
from ozone.ops.registry import DTYPES, NATIVE, OPS, op
from ozone.ops.rotary import as_int32, dense_heads, rotary_embedding

TILE_POSITIONS = 16
MAX_HEAD_DIM = 1024

CACHE_DTYPES: dict[torch.dtype, int] = {
    getattr(torch, name): code for name, code in CACHE_DTYPE_CODES.items()
}


class KVCache(NamedTuple):
    """One layer's cache. `scales` is None where the type needs none, and where the layer brings them."""

    keys: Tensor
    values: Tensor
    scales: Tensor | None


class CacheLayout(NamedTuple):
    """What a layer's cache looks like: sizes, and the dense shapes of its parts for one block."""

    num_blocks: int
    block_size: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def pack(self) -> int:
        """Neighbours that lie side by side."""
        return 4 if self.dtype.itemsize == 1 else 2 if self.dtype == torch.bfloat16 else 1

    @property
    def columns(self) -> int:
        """Columns of a head, padded."""
        return -(-self.head_dim // TILE_POSITIONS) * TILE_POSITIONS

    def allocate(self, name: str) -> KVCache:
        """A cache of zeros in a region of that name, given memory by the system where it is first written.

        The keys and the values of a block lie next to each other, so that a cache that is hardly used
        takes hardly any memory, however large its pages are.

        Raises: `ConfigError` for heads wider than kernels have room for.
        """
        if self.head_dim > MAX_HEAD_DIM:
            raise ConfigError(f"attention heads of {self.head_dim} columns: at most {MAX_HEAD_DIM} are built")
        tiles = self.block_size // TILE_POSITIONS
        part = self.kv_heads * self.block_size * self.columns
        memory = torch.from_numpy(allocate(name, self.num_blocks * 2 * part * self.dtype.itemsize))
        both = memory.view(self.dtype).view(self.num_blocks, 2, self.kv_heads, tiles, -1)
        keys = both[:, 0].view(*both.shape[:1], *both.shape[2:4], -1, TILE_POSITIONS, self.pack)
        values = both[:, 1].view(*both.shape[:1], *both.shape[2:4], -1, self.columns, self.pack)
        scales = None
        if self.dtype == torch.int8:
            shape = (self.num_blocks, self.kv_heads, tiles, 2, TILE_POSITIONS)
            memory = torch.from_numpy(allocate(f"{name} scales", 4 * math.prod(shape)))
            scales = memory.view(torch.float32).view(shape)
        return KVCache(keys, values, scales)


def by_position(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values as views (num_blocks, tiles, 16, kv_heads, columns / pack, pack) and
    (num_blocks, tiles, 16 / pack, pack, kv_heads, columns).
    """
    return keys.permute(0, 2, 4, 1, 3, 5), values.permute(0, 2, 3, 5, 1, 4)


def as_bytes(x: Tensor) -> Tensor:
    """`x`, or its bytes where its type has only one: indexing and padding know no float8."""
    return x.view(torch.uint8) if x.dtype.itemsize == 1 else x


if NATIVE:
    _kv_write = kernel("kv_write")
    _rotary_embedding_kv_write = kernel("rotary_embedding_kv_write")
    _qk_norm_rotary_embedding_kv_write = kernel("qk_norm_rotary_embedding_kv_write")
    # What the ops with state return: nothing, of each type.
    _TOKENS = {dtype: torch.empty(0, dtype=dtype) for dtype in DTYPES}


def _address(kv_scales: Tensor | None) -> int:
    return 0 if kv_scales is None else kv_scales.data_ptr()


def _native_kv_write(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, kv_scales: Tensor | None, slot_mapping: Tensor
) -> Tensor:
    tokens, kv_heads, head_dim = k.shape
    (k, k_stride), (v, v_stride) = dense_heads(k), dense_heads(v)
    cache_stride, dtype = k_cache.stride(), k.dtype
    _kv_write(
        k.data_ptr(),
        v.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        _address(kv_scales),
        slot_mapping.data_ptr(),
        tokens,
        kv_heads,
        head_dim,
        k_stride[0],
        k_stride[1],
        v_stride[0],
        v_stride[1],
        cache_stride[0],
        cache_stride[1],
        k_cache.shape[2] * TILE_POSITIONS,
        DTYPES[dtype],
        CACHE_DTYPES[k_cache.dtype],
    )
    return _TOKENS[dtype]


@op("kv_write", native=_native_kv_write, fake=lambda k, *_: k.new_empty(0))
def kv_write(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, kv_scales: Tensor | None, slot_mapping: Tensor
) -> Tensor:
    """Store keys and values of new tokens in their slots.

    Args:
        k, v: (tokens, kv_heads, head_dim), of one type; with dense heads, and may be views of one wider
            matrix.
        k_cache, v_cache: the layer's cache, of any type that a cache has; written to. Their first two
            strides are equal.
        kv_scales: of an int8 cache, written to; of a float8_e4m3fn one, read; else None.
        slot_mapping: (tokens,) int64, ``block_id * block_size + offset`` of each token; no slot twice.

    Returns: an empty tensor, the token. `attention` takes it as an argument, so that a graph in which this
    op's result looks unused cannot lose the write or move it behind the read.
    """
    head_dim, tiles, pack = k.shape[2], k_cache.shape[2], k_cache.shape[5]
    block_size, columns = tiles * TILE_POSITIONS, k_cache.shape[3] * pack
    block, offset = slot_mapping // block_size, slot_mapping % block_size
    tile, position = offset // TILE_POSITIONS, offset % TILE_POSITIONS
    codes = []
    for part, x in enumerate((k, v)):
        if kv_scales is None:
            encoded = x.to(k_cache.dtype)
        elif k_cache.dtype == torch.int8:
            encoded, scale = quantize_int8_token(x)
            kv_scales[block, :, tile, part, position] = scale.squeeze(-1)
        else:
            encoded = quantize_fp8_static(x, kv_scales[part])
        codes.append(functional.pad(as_bytes(encoded), (0, columns - head_dim)))
    keys, values = by_position(as_bytes(k_cache), as_bytes(v_cache))
    keys[block, tile, position] = codes[0].view(*k.shape[:2], -1, pack)
    values[block, tile, position // pack, position % pack] = codes[1]
    return k.new_empty(0)


def _native_rotary_embedding_kv_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_scales: Tensor | None,
    slot_mapping: Tensor,
) -> tuple[Tensor, Tensor]:
    (q, q_stride), (k, k_stride), (v, v_stride) = dense_heads(q), dense_heads(k), dense_heads(v)
    cache_stride, positions, dtype = k_cache.stride(), as_int32(positions), q.dtype
    tokens, heads, head_dim = q.shape
    q_out = torch.empty(tokens, heads, head_dim, dtype=dtype)
    _rotary_embedding_kv_write(
        q_out.data_ptr(),
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        positions.data_ptr(),
        cos_sin.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        _address(kv_scales),
        slot_mapping.data_ptr(),
        tokens,
        heads,
        k.shape[1],
        head_dim,
        cos_sin.shape[1],
        q_stride[0],
        q_stride[1],
        k_stride[0],
        k_stride[1],
        v_stride[0],
        v_stride[1],
        cache_stride[0],
        cache_stride[1],
        k_cache.shape[2] * TILE_POSITIONS,
        interleaved,
        DTYPES[dtype],
        CACHE_DTYPES[k_cache.dtype],
    )
    return q_out, _TOKENS[dtype]


def _fake_fused(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(0)


@op("rotary_embedding_kv_write", native=_native_rotary_embedding_kv_write, fake=_fake_fused)
def rotary_embedding_kv_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_scales: Tensor | None,
    slot_mapping: Tensor,
) -> tuple[Tensor, Tensor]:
    """`rotary_embedding` of q and k, then `kv_write` of the rotated k and of v.

    Returns: rotated q, and the token of the write.
    """
    q, k = rotary_embedding(q, k, positions, cos_sin, interleaved)
    return q, OPS["kv_write"].reference(k, v, k_cache, v_cache, kv_scales, slot_mapping)


def _native_qk_norm_rotary_embedding_kv_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    positions: Tensor,
    cos_sin: Tensor,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_scales: Tensor | None,
    slot_mapping: Tensor,
) -> tuple[Tensor, Tensor]:
    (q, q_stride), (k, k_stride), (v, v_stride) = dense_heads(q), dense_heads(k), dense_heads(v)
    cache_stride, positions, dtype = k_cache.stride(), as_int32(positions), q.dtype
    tokens, heads, head_dim = q.shape
    q_out = torch.empty(tokens, heads, head_dim, dtype=dtype)
    _qk_norm_rotary_embedding_kv_write(
        q_out.data_ptr(),
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        q_weight.data_ptr(),
        k_weight.data_ptr(),
        positions.data_ptr(),
        cos_sin.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        _address(kv_scales),
        slot_mapping.data_ptr(),
        tokens,
        heads,
        k.shape[1],
        head_dim,
        cos_sin.shape[1],
        q_stride[0],
        q_stride[1],
        k_stride[0],
        k_stride[1],
        v_stride[0],
        v_stride[1],
        cache_stride[0],
        cache_stride[1],
        k_cache.shape[2] * TILE_POSITIONS,
        interleaved,
        eps,
        DTYPES[dtype],
        CACHE_DTYPES[k_cache.dtype],
    )
    return q_out, _TOKENS[dtype]


@op("qk_norm_rotary_embedding_kv_write", native=_native_qk_norm_rotary_embedding_kv_write, fake=_fake_fused)
def qk_norm_rotary_embedding_kv_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    positions: Tensor,
    cos_sin: Tensor,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_scales: Tensor | None,
    slot_mapping: Tensor,
) -> tuple[Tensor, Tensor]:
    """`qk_norm_rotary_embedding` of q and k, then `kv_write` of the new k and of v.

    Returns: the new q, and the token of the write.
    """
    q, k = OPS["qk_norm_rotary_embedding"].reference(
        q, k, q_weight, k_weight, eps, positions, cos_sin, interleaved
    )
    return q, OPS["kv_write"].reference(k, v, k_cache, v_cache, kv_scales, slot_mapping)
