"""Llama 2, 3, 3.1 and 3.2 (Touvron et al., 2023; Grattafiori et al., 2024): grouped-query attention with
rotary positions, gated feed-forward, a norm before each.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ozone.config.model import ModelConfig
from ozone.layers.activation import GatedMLP
from ozone.layers.attention import Attention
from ozone.layers.batch import BatchContext
from ozone.layers.norm import RMSNorm
from ozone.layers.options import BuildOptions
from ozone.layers.projections import OutputProjection, QKVProjection
from ozone.layers.rotary import RotaryEmbedding
from ozone.models.causal_lm import CausalLM, DecoderLayer


class LlamaAttention(nn.Module):
    def __init__(
        self, name: str, layer: int, rope: RotaryEmbedding, config: ModelConfig, options: BuildOptions
    ) -> None:
        super().__init__()
        self.qkv_proj = QKVProjection(name, config, options)
        self.rope = rope
        self.attention = Attention(name, layer, config, options)
        self.o_proj = OutputProjection(name, config, options)

    def forward(self, hidden: Tensor, positions: Tensor, batch: BatchContext) -> Tensor:
        q, k, v = self.qkv_proj.split(hidden)
        q, k = self.rope(q, k, positions)
        output: Tensor = self.o_proj(self.attention(q, k, v, batch))
        return output


class LlamaDecoderLayer(DecoderLayer):
    def __init__(self, layer: int, rope: RotaryEmbedding, config: ModelConfig, options: BuildOptions) -> None:
        super().__init__()
        name, size, eps = f"model.layers.{layer}", config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(f"{name}.input_layernorm", size, eps, options)
        self.self_attn = LlamaAttention(f"{name}.self_attn", layer, rope, config, options)
        self.post_attention_layernorm = RMSNorm(f"{name}.post_attention_layernorm", size, eps, options)
        self.mlp = GatedMLP(f"{name}.mlp", config, options)

    def forward(
        self, hidden: Tensor, residual: Tensor | None, positions: Tensor, batch: BatchContext
    ) -> tuple[Tensor, Tensor]:
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden, positions, batch)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual


class LlamaForCausalLM(CausalLM):
    def build_layers(self, config: ModelConfig, options: BuildOptions) -> Sequence[DecoderLayer]:
        rope = RotaryEmbedding(config.rope, config.head_dim, options)
        return [LlamaDecoderLayer(i, rope, config, options) for i in range(config.num_layers)]
