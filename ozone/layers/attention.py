"""Attention over the paged cache. The layer owns no memory: it has a number, the batch brings the cache."""

from __future__ import annotations

from torch import Tensor, nn

from ozone.config.model import ModelConfig
from ozone.layers.batch import BatchContext
from ozone.ops.attention import attention
from ozone.ops.kv_cache import kv_write


class Attention(nn.Module):
    """Writes new keys and values to this layer's cache, then attends over the cache."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.scale = config.attention_scale
        self.window = config.sliding_window if config.layer_types[layer] == "sliding_attention" else None
        self.softcap = config.attention_softcap

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: BatchContext) -> Tensor:
        """
        Args:
            q: (tokens, heads, head_dim); k, v: (tokens, kv_heads, head_dim).

        Returns: (tokens, heads * head_dim).
        """
        k_cache, v_cache = batch.kv_caches[self.layer]
        token = kv_write(k, v, k_cache, v_cache, batch.slot_mapping)
        output = attention(
            q,
            k_cache,
            v_cache,
            token,
            batch.block_tables,
            batch.query_start_loc,
            batch.seq_lens,
            self.scale,
            self.window,
            self.softcap,
        )
        return output.flatten(1)
