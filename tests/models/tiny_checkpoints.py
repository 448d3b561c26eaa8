"""Tiny random models of every family, as transformers has them, and as files of either format."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "attn_implementation": "eager",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
}
GEMMA: dict[str, Any] = {**SHAPE, "num_hidden_layers": 8, "sliding_window": 24, "query_pre_attn_scalar": 24}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama_biases": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "llama_llama3_rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE)),
    "llama_linear_rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LINEAR_ROPE)),
    "llama_yarn_rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=YARN_ROPE)),
    "llama_multi_query": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SHAPE, "num_key_value_heads": 1, "head_dim": 32})
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=24)),
    "mistral_full": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen2_sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=20, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)),
    "qwen3_biases": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32, attention_bias=True)),
    "qwen3_sliding": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, head_dim=32, use_sliding_window=True, sliding_window=20, max_window_layers=1)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA, head_dim=32)),
    "gemma3_biases": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA, head_dim=32, attention_bias=True)),
    # As in the models of 4B and up.
    "gemma3_linear_rope": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GEMMA, head_dim=32, rope_parameters=GEMMA_ROPES)
    ),
    "gemma3_softcaps": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GEMMA, head_dim=16, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)
    ),
}
# GGUF has no keys for a window that covers some of Qwen's layers.
GGUF_MODELS = [name for name in MODELS if name not in ("qwen2_sliding", "qwen3_sliding")]


def tiny_model(name: str) -> PreTrainedModel:
    """A model of `MODELS` with weights large enough for every part of it to show in the logits."""
    torch.manual_seed(len(name))
    model = MODELS[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                center = 0.0 if name.startswith("gemma3") else 1.0
                parameter.normal_(center, 0.3)
            elif parameter.dim() == 1:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter.shape[1]))
    return model


def save(model: PreTrainedModel, folder: Path, format: str) -> Path:
    """Write the model to `folder`; returns what to open."""
    if format == "gguf":
        return save_gguf(model, folder / "model.gguf")
    model.save_pretrained(folder)
    return folder


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_NAMES = {
    **_GGUF_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def save_gguf(model: PreTrainedModel, path: Path) -> Path:
    """Write the model as a converter to GGUF would: other names, q and k of Llama in interleaved order,
    Gemma's norms with 1 added, Llama 3's rope scaling as divisors of the frequencies.
    """
    config = model.config
    family = config.model_type
    architecture = {"gemma3_text": "gemma3", "mistral": "llama"}.get(family, family)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    _add_rope(writer, config, head_dim)
    if family != "llama" and getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma3":
        writer.add_attention_scale(config.query_pre_attn_scalar**-0.5)
        if config.attn_logit_softcapping:
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = value.numpy()
        if architecture == "llama" and ("q_proj" in key or "k_proj" in key):
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            data = data.reshape(heads, 2, -1, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        if architecture == "gemma3" and "norm" in key:
            data = data + 1.0
        writer.add_tensor(gguf_name(key, architecture), np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(key: str, architecture: str) -> str:
    names = _GEMMA_NAMES if architecture == "gemma3" else _GGUF_NAMES
    stem, _, kind = key.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{names[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{names[part]}.{kind}"


def _add_rope(writer: gguf.GGUFWriter, config: Any, head_dim: int) -> None:
    rope = config.rope_parameters
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif kind == "llama3":
        frequencies = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
        wavelengths = 2 * np.pi / frequencies
        trained = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        blend = (trained / wavelengths - low) / (high - low)
        between = 1 / ((1 - blend) / rope["factor"] + blend)
        factors = np.where(wavelengths < trained / high, 1.0, between)
        factors = np.where(wavelengths > trained / low, rope["factor"], factors)
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
