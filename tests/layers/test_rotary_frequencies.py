"""Rotary frequencies of every kind of scaling against transformers', and what GGUF makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ozone.config.model import RopeConfig
from ozone.layers.rotary import cos_sin_table, rope_frequencies

HEAD_DIM = 64
CASES: dict[str, tuple[RopeConfig, dict[str, Any]]] = {
    "linear": (RopeConfig(theta=5e5, scaling="linear", factor=4.0), {"factor": 4.0}),
    "llama3": (
        RopeConfig(theta=5e5, scaling="llama3", factor=32.0, original_max_position=8192),
        {
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "yarn": (
        RopeConfig(theta=1e6, scaling="yarn", factor=4.0, original_max_position=32768),
        {"factor": 4.0, "original_max_position_embeddings": 32768},
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_frequencies_and_magnitude_equal_those_of_transformers(kind: str) -> None:
    config, parameters = CASES[kind]
    parameters = {**parameters, "rope_type": kind, "rope_theta": config.theta}
    reference = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=parameters)
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](reference, device=torch.device("cpu"))
    torch.testing.assert_close(rope_frequencies(config, HEAD_DIM), frequencies, rtol=1e-6, atol=0)
    cos, sin = cos_sin_table(config, HEAD_DIM, 100).chunk(2, dim=1)
    angles = torch.arange(100.0)[:, None] * frequencies
    torch.testing.assert_close(cos, angles.cos() * magnitude, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sin, angles.sin() * magnitude, rtol=1e-4, atol=1e-5)


def test_an_explicit_attention_factor_is_the_magnitude() -> None:
    config = RopeConfig(scaling="yarn", factor=4.0, original_max_position=64, attention_factor=1.5)
    assert cos_sin_table(config, HEAD_DIM, 1)[0, 0] == 1.5


def test_frequency_factors_divide_the_frequencies() -> None:
    factors = tuple(1.0 + i for i in range(HEAD_DIM // 2))
    plain = rope_frequencies(RopeConfig(), HEAD_DIM)
    divided = rope_frequencies(RopeConfig(frequency_factors=factors), HEAD_DIM)
    torch.testing.assert_close(divided * torch.tensor(factors), plain)
