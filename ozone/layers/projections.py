"""The linears around attention: q, k and v as one matrix, and the output."""

from __future__ import annotations

from torch import Tensor

from ozone.config.model import ModelConfig
from ozone.layers.linear import Linear
from ozone.layers.options import BuildOptions


class QKVProjection(Linear):
    """Queries, keys and values from one product; `name` is the attention block's checkpoint name."""

    def __init__(self, name: str, config: ModelConfig, options: BuildOptions) -> None:
        heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        super().__init__(
            [f"{name}.{part}_proj" for part in "qkv"],
            config.hidden_size,
            [count * config.head_dim for count in heads],
            bias=config.qkv_bias,
            dtype=options.dtype,
            method=options.linear_method(f"{name}.q_proj"),
        )
        self.heads = heads
        self.head_dim = config.head_dim

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens, hidden_size) -> q (tokens, heads, head_dim), k and v (tokens, kv_heads, head_dim)."""
        q, k, v = self(x).unflatten(1, (-1, self.head_dim)).split(self.heads, dim=1)
        return q, k, v


class OutputProjection(Linear):
    """What attention gathered, back to the residual stream."""

    def __init__(self, name: str, config: ModelConfig, options: BuildOptions) -> None:
        super().__init__(
            [f"{name}.o_proj"],
            config.num_heads * config.head_dim,
            [config.hidden_size],
            bias=config.o_bias,
            dtype=options.dtype,
            method=options.linear_method(f"{name}.o_proj"),
        )
