"""The write to the paged KV cache: the one op with state.

A cache tensor is (kv_heads, num_blocks, block_size, head_dim): the tile of one head and one block is
contiguous, and gathering the blocks of a sequence puts each head's positions in one row, ready for attention.
"""

from __future__ import annotations

from torch import Tensor

from ozone.ops.registry import op


@op("kv_write", fake=lambda k, *_, **__: k.new_empty(0))
def kv_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> Tensor:
    """Store keys and values of new tokens in their slots.

    Args:
        k, v: (tokens, kv_heads, head_dim), of the cache's type.
        k_cache, v_cache: (kv_heads, num_blocks, block_size, head_dim), written to.
        slot_mapping: (tokens,) int64, ``block_id * block_size + offset`` of each token.

    Returns: an empty tensor, the token. `attention` takes it as an argument, so that a graph in which this
    op's result looks unused cannot lose the write or move it behind the read.
    """
    for new, cache in ((k, k_cache), (v, v_cache)):
        slots = cache.view(cache.shape[0], -1, cache.shape[3])
        slots.index_copy_(1, slot_mapping, new.transpose(0, 1))
    return k.new_empty(0)
