"""Qwen2 and Qwen2.5 (Yang et al., 2024): Llama's layer with biases on q, k and v. A sliding window may cover
the last layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ozone.config.model import ModelConfig
from ozone.layers.options import BuildOptions
from ozone.layers.rotary import RotaryEmbedding
from ozone.models.causal_lm import CausalLM, DecoderLayer
from ozone.models.llama import LlamaDecoderLayer


class Qwen2ForCausalLM(CausalLM):
    """The biases are a matter of `QKVProjection`, which reads them from the config."""

    def build_layers(self, config: ModelConfig, options: BuildOptions) -> Sequence[DecoderLayer]:
        rope = RotaryEmbedding(config.rope, config.head_dim, options)
        return [LlamaDecoderLayer(i, rope, config, options) for i in range(config.num_layers)]
