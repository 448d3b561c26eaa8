"""Causal attention over the paged KV cache, in plain PyTorch.

Tokens that are alone in their request (decode) are batched, in groups of similar length; a request with
several tokens (prefill, whole or in chunks) goes alone, in tiles of rows. Softmax is in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ozone.ops.registry import op

# Rows of one tile of a prefill: what a tile cannot see is sliced off, so smaller tiles waste fewer products,
# and the mask of a tile stays small however long the context is.
_TILE_ROWS = 256


@op("attention", fake=lambda q, *_, **__: q.new_empty(q.shape))
def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
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
        q: (tokens, heads, head_dim); the tokens of a request are adjacent and are its last ones.
        k_cache, v_cache: (kv_heads, num_blocks, block_size, head_dim), see `ozone.ops.kv_cache`.
        token: what `kv_write` returned; only orders the two ops.
        block_tables: (requests, max_blocks) int32, block ids of each request in order.
        query_start_loc: (requests + 1,) int32, first row of each request in `q`, then the number of rows.
        seq_lens: (requests,) int32, positions of each request, new ones included.
        scale: factor on q.k.
        window: a token sees itself and ``window - 1`` positions before it; None: all of them.
        softcap: scores become ``softcap * tanh(score / softcap)``.

    Returns: (tokens, heads, head_dim) like `q`.
    """
    starts = query_start_loc.tolist()
    lengths = seq_lens.tolist()
    paged = _PagedCache(k_cache, v_cache, block_tables, scale, window, softcap)
    single = [i for i, length in enumerate(lengths) if starts[i + 1] - starts[i] == 1]
    groups = paged.groups(single, lengths)
    if len(groups) == 1 and len(single) == len(lengths):
        return paged.decode(q, single, lengths)
    output = torch.empty_like(q)
    for group in groups:
        rows = torch.tensor([starts[i] for i in group])
        output.index_copy_(0, rows, paged.decode(q.index_select(0, rows), group, lengths))
    for i, length in enumerate(lengths):
        first, last = starts[i], starts[i + 1]
        if last - first > 1:
            paged.prefill(q[first:last], i, length, output[first:last])
    return output


class _PagedCache:
    """The arguments that all requests of one call share."""

    def __init__(
        self,
        k_cache: Tensor,
        v_cache: Tensor,
        block_tables: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> None:
        self.k_cache = k_cache
        self.v_cache = v_cache
        self.block_tables = block_tables
        self.kv_heads, _, self.block_size, self.head_dim = k_cache.shape
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
            k, v = (self.gather(cache, blocks, 1)[:, :, visible] for cache in (self.k_cache, self.v_cache))
            mask = None
        else:
            starts = torch.tensor([first for first, _ in ranges])
            # Columns behind a request's last block repeat that block, hidden by the mask: what lies there
            # in the table is stale, and a NaN from somebody else's block would shine through a mask.
            ends = torch.tensor([last - 1 for _, last in ranges])
            columns = torch.minimum(starts[:, None] + torch.arange(count), ends[:, None])
            blocks = self.block_tables[torch.tensor(requests)[:, None], columns].flatten()
            k, v = (self.gather(cache, blocks, len(requests)) for cache in (self.k_cache, self.v_cache))
            last_position = torch.tensor(lengths)[:, None] - 1
            positions = starts[:, None] * self.block_size + torch.arange(count * self.block_size)
            mask = positions <= last_position
            if self.window is not None:
                mask &= positions > last_position - self.window
            mask = mask[None, :, None]
        # The query heads that share a KV head become the rows of one product.
        grouped = q.view(len(requests), self.kv_heads, -1, self.head_dim).transpose(0, 1)
        return self.attend(grouped, k, v, mask).transpose(0, 1).reshape(q.shape)

    def prefill(self, q: Tensor, request: int, length: int, output: Tensor) -> None:
        """The last tokens of one request, (tokens, heads, head_dim), written to `output` of that shape."""
        tokens, heads, _ = q.shape
        start = length - tokens
        first, last = self.first_visible(start) // self.block_size, self.blocks_of(length)[1]
        blocks = self.block_tables[request, first:last]
        origin = first * self.block_size
        k, v = (self.gather(cache, blocks, 1) for cache in (self.k_cache, self.v_cache))
        shape = (self.kv_heads, heads // self.kv_heads, -1, self.head_dim)
        grouped = q.view(tokens, self.kv_heads, -1, self.head_dim).permute(1, 2, 0, 3)
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
            output[row:end].view(end - row, self.kv_heads, -1, self.head_dim).copy_(tile.permute(2, 0, 1, 3))

    def gather(self, cache: Tensor, blocks: Tensor, requests: int) -> Tensor:
        """Blocks as rows of positions: (kv_heads, requests, positions, head_dim)."""
        return cache.index_select(1, blocks).view(self.kv_heads, requests, -1, self.head_dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Scaled dot-product attention over the last two dimensions; `mask` is True where a key is seen."""
        if self.softcap is None:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        scores = q.to(torch.float32) @ k.to(torch.float32).transpose(-1, -2) * self.scale
        scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores.masked_fill_(~mask, float("-inf"))
        return (torch.softmax(scores, dim=-1) @ v.to(torch.float32)).to(q.dtype)
