"""What a forward pass is told about its batch. Only the runner makes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ozone.ops.kv_cache import KVCache


@dataclass(frozen=True)
class BatchContext:
    """The step at hand, as views of the runner's static buffers.

    Attributes:
        slot_mapping: (tokens,) int64, where each token's keys and values go in the cache.
        block_tables: (requests, max_blocks) int32, block ids of each request in order.
        query_start_loc: (requests + 1,) int32, first token of each request, then the number of tokens.
        seq_lens: (requests,) int32, positions of each request once this step is done.
        kv_caches: one for each layer.
    """

    slot_mapping: Tensor
    block_tables: Tensor
    query_start_loc: Tensor
    seq_lens: Tensor
    kv_caches: Sequence[KVCache]
