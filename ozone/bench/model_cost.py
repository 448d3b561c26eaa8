"""What one token costs a model in multiply-adds, from its geometry.

Attention over the context comes on top of both and is left out, as are norms and biases: with the short
contexts of benchmarks these are a few percent.
"""

from __future__ import annotations

from ozone.config.model import ModelConfig


def linear_parameters(config: ModelConfig) -> int:
    """Weights of all linear layers but the output head, in elements."""
    queries = config.num_heads * config.head_dim
    keys_and_values = 2 * config.num_kv_heads * config.head_dim
    attention = config.hidden_size * (queries + keys_and_values) + queries * config.hidden_size
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + mlp)


def head_parameters(config: ModelConfig) -> int:
    """Weights of the output head, in elements; where it is the embedding table, that table's.

    The embedding itself is a gather of one row a token and costs nothing that counts.
    """
    return config.vocab_size * config.hidden_size


def operations(config: ModelConfig, tokens: int, scored: int) -> int:
    """Operations of products for `tokens` tokens, of which `scored` go through the output head.

    A multiply-add counts as two.
    """
    return 2 * (tokens * linear_parameters(config) + scored * head_parameters(config))
