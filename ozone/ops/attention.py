"""Causal attention over the paged KV cache.

The reference batches tokens that are alone in their request (decode), in groups of similar length; a request
with several tokens (prefill, whole or in chunks) goes alone, in tiles of rows. Softmax is in float32.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ozone.native import allocate, kernel
from ozone.ops.kv_cache import CACHE_DTYPES, TILE_POSITIONS, as_bytes
from ozone.ops.registry import DTYPES, NATIVE, being_traced, op
from ozone.ops.rotary import as_int32, dense_heads

if NATIVE:
    _attention = kernel("attention")
    _attention_merge = kernel("attention_merge")

# Rows of one tile of a prefill: what a tile cannot see is sliced off, so smaller tiles waste fewer products,
# and the mask of a tile stays small however long the context is.
_TILE_ROWS = 256


# As in csrc/kernels/attention.h.
_CHUNK_POSITIONS = 256
_MAX_CHUNKS = 32
_PARTIAL_HEADER = 16


class _Partials(threading.local):
    """Memory for what the chunks of a decode give, one for each thread that calls."""

    def __init__(self) -> None:
        self.size = 0
        self.address = 0

    def at_least(self, size: int) -> int:
        """The address of so many bytes."""
        if being_traced():  # a program is being made, which plans its memory
            return torch.empty(size, dtype=torch.uint8).data_ptr()
        if size > self.size:
            self.memory = torch.from_numpy(allocate("attention partials", size))
            self.size, self.address = size, self.memory.data_ptr()
        return self.address


_partials = _Partials()


class Attended(NamedTuple):
    """What the kernel `attention` leaves to one that merges.

    Attributes:
        rows: (tokens, heads * head_dim); those of requests that were cut into chunks are not written yet.
        partials: address of what the chunks gave.
        starts, lengths: `query_start_loc` and `seq_lens` as kernels take them.
        sizes: requests, heads, head_dim, chunks, window and type.
    """

    rows: Tensor
    partials: int
    starts: Tensor
    lengths: Tensor
    sizes: tuple[int, int, int, int, int, int]


def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_scales: Tensor | None,
    token: Tensor,  # noqa: ARG001 (orders this op behind the write)
    block_tables: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Attended:
    """The kernel `attention`, with the arguments of the op."""
    (q, q_stride), kind = dense_heads(q), q.dtype
    (tokens, heads, head_dim), dtype = q.shape, DTYPES[kind]
    _, kv_heads, tiles, steps, _, pack = k_cache.shape
    block_tables = as_int32(block_tables)
    starts, lengths = as_int32(query_start_loc), as_int32(seq_lens)
    requests, blocks = block_tables.shape
    block_size, cache_stride = tiles * TILE_POSITIONS, k_cache.stride()
    chunks = min(-(-blocks * block_size // _CHUNK_POSITIONS), _MAX_CHUNKS)
    partials = _partials.at_least(4 * requests * heads * chunks * (_PARTIAL_HEADER + steps * pack))
    rows = torch.empty(tokens, heads * head_dim, dtype=kind)
    _attention(
        rows.data_ptr(),
        partials,
        q.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        0 if kv_scales is None else kv_scales.data_ptr(),
        block_tables.data_ptr(),
        starts.data_ptr(),
        lengths.data_ptr(),
        requests,
        heads,
        kv_heads,
        head_dim,
        q_stride[0],
        q_stride[1],
        cache_stride[0],
        cache_stride[1],
        block_size,
        block_tables.stride(0),
        chunks,
        window or 0,
        scale,
        softcap or 0.0,
        dtype,
        CACHE_DTYPES[k_cache.dtype],
    )
    return Attended(rows, partials, starts, lengths, (requests, heads, head_dim, chunks, window or 0, dtype))


def _native_attention(*arguments: Any) -> Tensor:
    rows, partials, starts, lengths, sizes = attend(*arguments)
    if sizes[3] > 1:
        _attention_merge(rows.data_ptr(), partials, starts.data_ptr(), lengths.data_ptr(), *sizes)
    return rows


def _fake_attention(q: Tensor, *_: Any) -> Tensor:
    tokens, heads, head_dim = q.shape
    return q.new_empty(tokens, heads * head_dim)


@op("attention", native=_native_attention, fake=_fake_attention)
def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_scales: Tensor | None,
    token: Tensor,  # noqa: ARG001 (orders this op behind the write)
    block_tables: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attend from each new token to itself and to what precedes it in its request.

    Args:
        q: (tokens, heads, head_dim), with dense heads; the tokens of a request are adjacent and are its last
            ones.
        k_cache, v_cache: the layer's cache, see `ozone.ops.kv_cache`; of any type that a cache has.
        kv_scales: of a cache with 8-bit types, else None.
        token: what `kv_write` returned; only orders the two ops.
        block_tables: (requests, max_blocks) int32, block ids of each request in order.
        query_start_loc: (requests + 1,) int32, first row of each request in `q`, then the number of rows.
        seq_lens: (requests,) int32, positions of each request, new ones included.
        scale: factor on q.k.
        window: a token sees itself and ``window - 1`` positions before it; None: all of them.
        softcap: scores become ``softcap * tanh(score / softcap)``.

    Returns: (tokens, heads * head_dim), dense, of q's type.

    Products with a bfloat16 or e4m3 cache may be of queries and probabilities rounded to bfloat16, with an
    int8 cache of both rounded to 16 bits of the largest; sums are float32 or exact, the softmax is float32. A
    token's result depends neither on the batch around it nor on the number of threads.
    """
    starts = query_start_loc.tolist()
    lengths = seq_lens.tolist()
    paged = _PagedCache(k_cache, v_cache, kv_scales, block_tables, scale, window, softcap)
    single = [i for i, length in enumerate(lengths) if starts[i + 1] - starts[i] == 1]
    groups = paged.groups(single, lengths)
    if len(groups) == 1 and len(single) == len(lengths):
        return paged.decode(q, single, lengths).flatten(1)
    output = torch.empty(q.shape, dtype=q.dtype)
    for group in groups:
        rows = torch.tensor([starts[i] for i in group])
        output.index_copy_(0, rows, paged.decode(q.index_select(0, rows), group, lengths))
    for i, length in enumerate(lengths):
        first, last = starts[i], starts[i + 1]
        if last - first > 1:
            paged.prefill(q[first:last], i, length, output[first:last])
    return output.flatten(1)


class _PagedCache:
    """The arguments that all requests of one call share."""

    def __init__(
        self,
        k_cache: Tensor,
        v_cache: Tensor,
        kv_scales: Tensor | None,
        block_tables: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> None:
        self.k_cache = k_cache
        self.v_cache = v_cache
        self.kv_scales = kv_scales
        self.block_tables = block_tables
        self.kv_heads, self.block_size = k_cache.shape[1], k_cache.shape[2] * TILE_POSITIONS
        self.scale = scale
        self.window = window
        self.softcap = softcap

    def first_visible(self, position: int) -> int:
        """The first position that a token at `position` sees."""
        return 0 if self.window is None else max(0, position - self.window + 1)

    def blocks_of(self, length: int) -> tuple[int, int]:
        """The range of blocks that the last of `length` positions sees."""
        first = self.first_visible(length - 1) // self.block_size
        return first, (length - 1) // self.block_size + 1

    def groups(self, requests: list[int], lengths: list[int]) -> list[list[int]]:
        """Requests whose numbers of visible blocks share a power of two: padding at most doubles the work."""
        by_size: dict[int, list[int]] = {}
        for i in requests:
            first, last = self.blocks_of(lengths[i])
            by_size.setdefault((last - first - 1).bit_length(), []).append(i)
        return list(by_size.values())

    def decode(self, q: Tensor, requests: list[int], all_lengths: list[int]) -> Tensor:
        """One token each of several requests: (requests, heads, head_dim) -> the same."""
        lengths = [all_lengths[i] for i in requests]
        ranges = [self.blocks_of(length) for length in lengths]
        count = max(last - first for first, last in ranges)
        if len(requests) == 1:
            (first, last), position = ranges[0], lengths[0] - 1
            blocks = self.block_tables[requests[0], first:last]
            visible = slice(
                self.first_visible(position) - first * self.block_size,
                position - first * self.block_size + 1,
            )
            k, v = (part[:, :, visible] for part in self.gather(q, blocks, 1))
            mask = None
        else:
            starts = torch.tensor([first for first, _ in ranges])
            # Columns behind a request's last block repeat that block: what lies there in the table is stale.
            ends = torch.tensor([last - 1 for _, last in ranges])
            columns = torch.minimum(starts[:, None] + torch.arange(count), ends[:, None])
            blocks = self.block_tables[torch.tensor(requests)[:, None], columns].flatten()
            k, v = self.gather(q, blocks, len(requests))
            last_position = torch.tensor(lengths)[:, None] - 1
            positions = starts[:, None] * self.block_size + torch.arange(count * self.block_size)
            mask = positions <= last_position
            # The end of a last block is what an earlier request left there.
            for part in (k, v):
                part.masked_fill_(~mask[None, :, :, None], 0.0)
            if self.window is not None:
                mask &= positions > last_position - self.window
            mask = mask[None, :, None]
        # The query heads that share a KV head become the rows of one product.
        grouped = self.by_kv_head(q).transpose(0, 1)
        return self.attend(grouped, k, v, mask).transpose(0, 1).reshape(q.shape)

    def prefill(self, q: Tensor, request: int, length: int, output: Tensor) -> None:
        """The last tokens of one request, (tokens, heads, head_dim), written to `output` of that shape."""
        tokens, heads, head_dim = q.shape
        start = length - tokens
        first, last = self.first_visible(start) // self.block_size, self.blocks_of(length)[1]
        blocks = self.block_tables[request, first:last]
        origin = first * self.block_size
        k, v = self.gather(q, blocks, 1)
        shape = (self.kv_heads, heads // self.kv_heads, -1, head_dim)
        grouped = self.by_kv_head(q).permute(1, 2, 0, 3)
        for row in range(0, tokens, _TILE_ROWS):
            end = min(row + _TILE_ROWS, tokens)
            low, high = self.first_visible(start + row), start + end
            visible = slice(low - origin, high - origin)
            queries = torch.arange(start + row, high)[:, None]
            keys = torch.arange(low, high)
            mask = keys <= queries
            if self.window is not None:
                mask &= keys > queries - self.window
            tile = self.attend(
                grouped[:, :, row:end], k[:, :, visible].expand(shape), v[:, :, visible].expand(shape), mask
            )
            output[row:end].view(end - row, self.kv_heads, -1, head_dim).copy_(tile.permute(2, 0, 1, 3))

    def by_kv_head(self, q: Tensor) -> Tensor:
        """(tokens, heads, head_dim) -> (tokens, kv_heads, heads that share one, head_dim)."""
        tokens, heads, head_dim = q.shape
        return q.reshape(tokens, self.kv_heads, heads // self.kv_heads, head_dim)

    def gather(self, q: Tensor, blocks: Tensor, requests: int) -> tuple[Tensor, Tensor]:
        """Keys and values of blocks as rows of positions, (kv_heads, requests, positions, head_dim): of q's
        type where the cache has it, else float32.
        """
        keys, values = (
            as_bytes(cache).index_select(0, blocks).view(cache.dtype)
            for cache in (self.k_cache, self.v_cache)
        )
        columns = values.shape[4]
        rows = [keys.permute(1, 0, 2, 4, 3, 5), values.permute(1, 0, 2, 3, 5, 4)]
        for part, x in enumerate(rows):
            x = x.reshape(self.kv_heads, requests, -1, columns)
            if x.dtype == torch.int8:
                assert self.kv_scales is not None
                scales = self.kv_scales.index_select(0, blocks)[:, :, :, part].transpose(0, 1)
                x = x.to(torch.float32) * scales.reshape(self.kv_heads, requests, -1, 1)
            elif x.dtype == torch.float8_e4m3fn:
                assert self.kv_scales is not None
                x = x.to(torch.float32) * self.kv_scales[part]
            rows[part] = x[..., : q.shape[2]].to(q.dtype if x.dtype == q.dtype else torch.float32)
        return rows[0], rows[1]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Scaled dot-product attention over the last two dimensions; `mask` is True where a key is seen."""
        if self.softcap is None:
            output = functional.scaled_dot_product_attention(
                q.to(k.dtype), k, v, attn_mask=mask, scale=self.scale
            )
            return output.to(q.dtype)
        scores = q.to(torch.float32) @ k.to(torch.float32).transpose(-1, -2) * self.scale
        scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores.masked_fill_(~mask, float("-inf"))
        return (torch.softmax(scores, dim=-1) @ v.to(torch.float32)).to(q.dtype)
