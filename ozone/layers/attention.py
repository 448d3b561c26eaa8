"""Attention over the paged cache. The layer owns no cache: it has a number, the batch brings the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.layers.batch import BatchContext
from ozone.layers.checkpoint import Checkpoint, LoadableLayer
from ozone.layers.options import BuildOptions
from ozone.ops.attention import attention
from ozone.ops.kv_cache import kv_write

# Names under an attention block that checkpoints give the scales of an fp8 cache: of keys, of values.
# The last one is for both.
_SCALE_NAMES = (
    ("k_scale", "v_scale"),
    ("attn.k_scale", "attn.v_scale"),
    ("k_proj.k_scale", "v_proj.v_scale"),
    ("k_proj.output_scale", "v_proj.output_scale"),
    ("kv_scale", "kv_scale"),
)


class Attention(LoadableLayer):
    """Writes new keys and values to this layer's cache, then attends over the cache.

    `name` is the attention block's checkpoint name, under which the checkpoint may give the scales of an fp8
    cache; they are 1 where it does not.
    """

    fp8_scales: Tensor

    def __init__(self, name: str, layer: int, config: ModelConfig, options: BuildOptions) -> None:
        super().__init__()
        self.name = name
        self.reads_scales = options.kv_cache_dtype == "fp8"
        self.layer = layer
        self.scale = config.attention_scale
        self.window = config.sliding_window if config.layer_types[layer] == "sliding_attention" else None
        self.softcap = config.attention_softcap
        self.register_buffer("fp8_scales", torch.empty(2, device="meta"))

    def load(self, checkpoint: Checkpoint) -> None:
        self.fp8_scales = torch.ones(2)
        for names in _SCALE_NAMES if self.reads_scales else ():
            for part, suffix in enumerate(names):
                if checkpoint.has(name := f"{self.name}.{suffix}"):
                    scale = float(checkpoint.numbers(name, (), (1,)))
                    if scale <= 0.0:
                        raise ModelFileError(f"{checkpoint.source.path}: {name} is {scale}, not positive")
                    self.fp8_scales[part] = scale

    def load_cost(self) -> int:
        return 2

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: BatchContext) -> Tensor:
        """
        Args:
            q: (tokens, heads, head_dim); k, v: (tokens, kv_heads, head_dim).

        Returns: (tokens, heads * head_dim).
        """
        keys, values, scales = batch.kv_caches[self.layer]
        if keys.dtype is torch.float8_e4m3fn:
            scales = self.fp8_scales
        token = kv_write(k, v, keys, values, scales, batch.slot_mapping)
        return attention(
            q,
            keys,
            values,
            scales,
            token,
            batch.block_tables,
            batch.query_start_loc,
            batch.seq_lens,
            self.scale,
            self.window,
            self.softcap,
        )
