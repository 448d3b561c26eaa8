"""Gemma 3, text only (Gemma Team, 2025): most layers attend locally, every sixth globally with a rotary base
of its own; q and k are normalized per head; attention and feed-forward are each between two norms, whose
weights are offsets from 1; embeddings are scaled, scores may be soft-capped.
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


class Gemma3Attention(nn.Module):
    def __init__(
        self, name: str, layer: int, rope: RotaryEmbedding, config: ModelConfig, options: BuildOptions
    ) -> None:
        super().__init__()
        size, eps = config.head_dim, config.rms_norm_eps
        self.qkv_proj = QKVProjection(name, config, options)
        self.q_norm = RMSNorm(f"{name}.q_norm", size, eps, options, offset=config.norm_offset)
        self.k_norm = RMSNorm(f"{name}.k_norm", size, eps, options, offset=config.norm_offset)
        self.rope = rope
        self.attention = Attention(name, layer, config, options)
        self.o_proj = OutputProjection(name, config, options)

    def forward(self, hidden: Tensor, positions: Tensor, batch: BatchContext) -> Tensor:
        q, k, v = self.qkv_proj.split(hidden)
        q, k = self.rope(self.q_norm.normalize(q), self.k_norm.normalize(k), positions)
        output: Tensor = self.o_proj(self.attention(q, k, v, batch))
        return output


class Gemma3DecoderLayer(DecoderLayer):
    def __init__(self, layer: int, rope: RotaryEmbedding, config: ModelConfig, options: BuildOptions) -> None:
        super().__init__()
        name = f"model.layers.{layer}"

        def norm(part: str) -> RMSNorm:
            return RMSNorm(
                f"{name}.{part}", config.hidden_size, config.rms_norm_eps, options, offset=config.norm_offset
            )

        self.input_layernorm = norm("input_layernorm")
        self.self_attn = Gemma3Attention(f"{name}.self_attn", layer, rope, config, options)
        self.post_attention_layernorm = norm("post_attention_layernorm")
        self.pre_feedforward_layernorm = norm("pre_feedforward_layernorm")
        self.mlp = GatedMLP(f"{name}.mlp", config, options)
        self.post_feedforward_layernorm = norm("post_feedforward_layernorm")

    def forward(
        self, hidden: Tensor, residual: Tensor | None, positions: Tensor, batch: BatchContext
    ) -> tuple[Tensor, Tensor]:
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden, positions, batch)
        hidden = self.post_attention_layernorm.normalize(hidden)
        hidden, residual = self.pre_feedforward_layernorm(hidden, residual)
        return self.post_feedforward_layernorm.normalize(self.mlp(hidden)), residual


class Gemma3ForCausalLM(CausalLM):
    def build_layers(self, config: ModelConfig, options: BuildOptions) -> Sequence[DecoderLayer]:
        ropes = {"full_attention": config.rope, "sliding_attention": config.rope_local or config.rope}
        modules = {kind: RotaryEmbedding(rope, config.head_dim, options) for kind, rope in ropes.items()}
        return [
            Gemma3DecoderLayer(layer, modules[kind], config, options)
            for layer, kind in enumerate(config.layer_types)
        ]
