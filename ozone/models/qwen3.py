"""Qwen3 (Yang et al., 2025): Llama's layer with q and k normalized per head before they are rotated."""

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


class Qwen3Attention(nn.Module):
    def __init__(
        self, name: str, layer: int, rope: RotaryEmbedding, config: ModelConfig, options: BuildOptions
    ) -> None:
        super().__init__()
        self.qkv_proj = QKVProjection(name, config, options)
        self.q_norm = RMSNorm(f"{name}.q_norm", config.head_dim, config.rms_norm_eps, options)
        self.k_norm = RMSNorm(f"{name}.k_norm", config.head_dim, config.rms_norm_eps, options)
        self.rope = rope
        self.attention = Attention(name, layer, config, options)
        self.o_proj = OutputProjection(name, config, options)

    def forward(self, hidden: Tensor, positions: Tensor, batch: BatchContext) -> Tensor:
        q, k, v = self.qkv_proj.split(hidden)
        q, k = self.rope(self.q_norm.normalize(q), self.k_norm.normalize(k), positions)
        output: Tensor = self.o_proj(self.attention(q, k, v, batch))
        return output


class Qwen3DecoderLayer(DecoderLayer):
    def __init__(self, layer: int, rope: RotaryEmbedding, config: ModelConfig, options: BuildOptions) -> None:
        super().__init__()
        name, size, eps = f"model.layers.{layer}", config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(f"{name}.input_layernorm", size, eps, options)
        self.self_attn = Qwen3Attention(f"{name}.self_attn", layer, rope, config, options)
        self.post_attention_layernorm = RMSNorm(f"{name}.post_attention_layernorm", size, eps, options)
        self.mlp = GatedMLP(f"{name}.mlp", config, options)

    def forward(
        self, hidden: Tensor, residual: Tensor | None, positions: Tensor, batch: BatchContext
    ) -> tuple[Tensor, Tensor]:
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden, positions, batch)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual


class Qwen3ForCausalLM(CausalLM):
    def build_layers(self, config: ModelConfig, options: BuildOptions) -> Sequence[DecoderLayer]:
        rope = RotaryEmbedding(config.rope, config.head_dim, options)
        return [Qwen3DecoderLayer(i, rope, config, options) for i in range(config.num_layers)]
