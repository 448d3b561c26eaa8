"""Mistral (Jiang et al., 2023): Llama's layer with a sliding window, so that a token attends to a fixed
number of positions before it and reaches further back through the layers below.
"""

from __future__ import annotations

from collections.abc import Sequence

from ozone.config.model import ModelConfig
from ozone.layers.options import BuildOptions
from ozone.layers.rotary import RotaryEmbedding
from ozone.models.causal_lm import CausalLM, DecoderLayer
from ozone.models.llama import LlamaDecoderLayer


class MistralForCausalLM(CausalLM):
    """The window is a matter of each layer's `Attention`, which reads it from the config."""

    def build_layers(self, config: ModelConfig, options: BuildOptions) -> Sequence[DecoderLayer]:
        rope = RotaryEmbedding(config.rope, config.head_dim, options)
        return [LlamaDecoderLayer(i, rope, config, options) for i in range(config.num_layers)]
