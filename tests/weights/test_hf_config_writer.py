"""What is written as a config.json reads as the config it was written from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from transformers import AutoConfig

from ozone.config.model import RopeConfig
from ozone.errors import ModelFileError
from ozone.weights.hf_config import read_hf_config
from ozone.weights.hf_config_writer import hf_config

COMMON: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": [2, 7],
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True},
    "llama_biases": {"architectures": ["LlamaForCausalLM"], "attention_bias": True, "mlp_bias": True},
    "llama_linear": {
        "architectures": ["LlamaForCausalLM"],
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "llama_yarn": {"architectures": ["LlamaForCausalLM"], "rope_scaling": YARN},
    "llama3": {"architectures": ["LlamaForCausalLM"], "rope_scaling": LLAMA3},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 512},
    "mistral_full": {"architectures": ["MistralForCausalLM"], "sliding_window": None},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "eos_token_id": 2},
    "qwen2_sliding": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 256,
        "max_window_layers": 2,
    },
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "attention_bias": True},
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "rope_local_base_freq": 10000.0,
        "sliding_window": 512,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 24,
        "final_logit_softcapping": 30.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_being_written(name: str) -> None:
    config = read_hf_config({**COMMON, **CONFIGS[name]}, "config.json")
    written = json.loads(json.dumps(hf_config(config, "model.gguf")))
    assert read_hf_config(written, "config.json") == config


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_takes_the_same_from_it(name: str) -> None:
    config = read_hf_config({**COMMON, **CONFIGS[name]}, "config.json")
    written = hf_config(config, "model.gguf")
    theirs = AutoConfig.for_model(**written)
    assert theirs.num_key_value_heads == config.num_kv_heads
    assert theirs.head_dim == config.head_dim
    assert theirs.sliding_window == config.sliding_window or not config.sliding_window
    if name not in ("llama", "llama_biases", "mistral"):
        assert getattr(theirs, "layer_types", None) in (None, list(config.layer_types))


def test_llama_3s_divisors_are_recognized() -> None:
    """A GGUF file holds them in place of the settings that they come from."""
    from ozone.weights.hf_config_writer import _llama3_divisors

    plain = read_hf_config({**COMMON, **CONFIGS["llama"]}, "config.json")
    divisors = tuple(_llama3_divisors(500000.0, 32, 32.0))
    config = replace(plain, rope=RopeConfig(theta=500000.0, frequency_factors=divisors))
    assert hf_config(config, "model.gguf")["rope_scaling"] == LLAMA3
    other = replace(plain, rope=RopeConfig(theta=500000.0, frequency_factors=(1.0,) * 8 + (3.0,) * 8))
    with pytest.raises(ModelFileError, match=r"model.gguf: its rope_freqs are none of Llama 3's"):
        hf_config(other, "model.gguf")


def test_what_a_config_cannot_say_is_refused() -> None:
    plain = read_hf_config({**COMMON, **CONFIGS["llama"]}, "config.json")
    with pytest.raises(ModelFileError, match="biases"):
        hf_config(replace(plain, qkv_bias=True), "model.gguf")
    with pytest.raises(ModelFileError, match="part of each head rotates"):
        hf_config(replace(plain, rope=RopeConfig(partial=0.5)), "model.gguf")
