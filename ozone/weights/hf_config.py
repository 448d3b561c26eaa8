"""Hugging Face's ``config.json`` as a `ModelConfig`.

Keys that a checkpoint leaves out have the defaults of its family, as transformers defines them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ozone.config.families import FAMILIES, Family
from ozone.config.model import AttentionKind, ModelConfig
from ozone.errors import ModelFileError, shown
from ozone.weights.fields import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, Fields, attention_kinds, check_heads
from ozone.weights.rope import read_ropes, usable_context

DTYPES = ("float32", "float16", "bfloat16")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "gemma3": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
    },
}
_WITH_ATTENTION_BIAS = ("llama", "qwen3", "gemma3")
_DEFAULTS["qwen3"] = {**_DEFAULTS["qwen2"], "head_dim": 128}


def hf_family(values: Mapping[str, Any], where: str) -> Family:
    """The row of `FAMILIES` that ``architectures`` names, or, where there are none, ``model_type``."""
    architectures = values.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else architectures
    for family in FAMILIES:
        if named in family.hf_architectures:
            return family
    if named in (None, []):
        kind = values.get("model_type")
        for family in FAMILIES:
            if kind in (family.hf_model_types or (family.name,)):
                return family
        known = ", ".join(name for family in FAMILIES for name in family.hf_model_types or (family.name,))
        raise ModelFileError(
            f"{where}: no architectures, and the model_type {shown(kind)} is not supported "
            f"(supported: {known})"
        )
    supported = ", ".join(name for family in FAMILIES for name in family.hf_architectures)
    raise ModelFileError(
        f"{where}: the architecture {shown(named)} is not supported (supported: {supported})"
    )


def read_hf_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """The model's geometry and arithmetic; `ModelFileError` where a value makes no sense.

    `where` names the file in errors.
    """
    family = hf_family(values, where)
    # A null overrides the family's default: that is how a checkpoint switches a sliding window off.
    fields = Fields({**_DEFAULTS[family.name], **values}, where)
    if fields.flag("use_bidirectional_attention", False):
        raise fields.fail("use_bidirectional_attention", "is not supported")
    is_gemma = family.name == "gemma3"
    hidden_size = fields.size("hidden_size", most=MAX_WIDTH)
    num_heads = fields.size("num_attention_heads", most=MAX_WIDTH)
    num_kv_heads = fields.size("num_key_value_heads", num_heads)
    head_dim = _head_dim(fields, hidden_size, num_heads)
    check_heads(fields, num_heads, num_kv_heads, head_dim)
    layer_types, sliding_window = _layers(fields, family)
    rope, rope_local = read_ropes(fields, per_kind=is_gemma)
    for kind in (rope, rope_local or rope):
        rotated = int(head_dim * kind.partial + 1e-6)
        if rotated < 2 or rotated % 2:
            raise fields.fail("partial_rotary_factor", f"rotates {rotated} of {head_dim} columns, not pairs")
    max_position = fields.size("max_position_embeddings", most=MAX_CONTEXT)
    has_bias = family.name in _WITH_ATTENTION_BIAS and fields.flag("attention_bias", False)
    query_scalar = fields.number("query_pre_attn_scalar") if is_gemma else None
    return ModelConfig(
        family=family.name,
        vocab_size=fields.size("vocab_size", most=MAX_WIDTH),
        hidden_size=hidden_size,
        intermediate_size=fields.size("intermediate_size", most=MAX_WIDTH),
        num_layers=len(layer_types),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        max_position=max_position if is_gemma else usable_context(max_position, rope),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        attention_scale=(query_scalar or head_dim) ** -0.5,
        layer_types=layer_types,
        qkv_bias=family.qkv_bias or has_bias,
        o_bias=has_bias,
        mlp_bias=family.name == "llama" and fields.flag("mlp_bias", False),
        hidden_act=_activation(fields, family),
        rope=rope,
        rope_local=rope_local,
        sliding_window=sliding_window,
        attention_softcap=fields.number("attn_logit_softcapping") if is_gemma else None,
        logit_softcap=fields.number("final_logit_softcapping") if is_gemma else None,
        embedding_scale=math.sqrt(hidden_size) if family.scaled_embedding else 1.0,
        qk_norm=family.qk_norm,
        norm_offset=family.norm_offset,
        dtype=_dtype(fields),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
        eos_token_ids=fields.token_ids("eos_token_id"),
        quantization=fields.mapping("quantization_config"),
    )


def _head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
    if not fields.has("head_dim") and hidden_size % num_heads:
        raise fields.fail("hidden_size", f"{hidden_size} is not a multiple of {num_heads} attention heads")
    return fields.size("head_dim", hidden_size // num_heads, MAX_WIDTH)


def _layers(fields: Fields, family: Family) -> tuple[tuple[AttentionKind, ...], int | None]:
    """The kind of each layer, and the window of the sliding ones."""
    num_layers = fields.size("num_hidden_layers", most=MAX_LAYERS)
    window = fields.optional_size("sliding_window")
    if family.name == "llama" or (
        family.name.startswith("qwen") and not fields.flag("use_sliding_window", False)
    ):
        window = None
    if family.name == "llama":
        layer_types = attention_kinds([False] * num_layers)
    elif family.name == "mistral":
        layer_types = attention_kinds([window is not None] * num_layers)
    elif fields.has("layer_types"):
        layer_types = _listed_layers(fields, num_layers)
    elif family.name == "gemma3":
        period = fields.size("sliding_window_pattern")
        layer_types = attention_kinds((layer + 1) % period != 0 for layer in range(num_layers))
    else:
        first = fields.count("max_window_layers")
        layer_types = attention_kinds(window is not None and layer >= first for layer in range(num_layers))
    if "sliding_attention" not in layer_types:
        return layer_types, None
    if window is None:
        raise fields.fail("sliding_window", "is missing, but some layers are sliding")
    return layer_types, window


def _listed_layers(fields: Fields, num_layers: int) -> tuple[AttentionKind, ...]:
    names = fields.values["layer_types"]
    if not isinstance(names, list) or len(names) != num_layers:
        raise fields.fail("layer_types", f"is not a list of {num_layers} entries, one for each layer")
    for name in names:
        if name not in ("full_attention", "sliding_attention"):
            raise fields.fail(
                "layer_types", f"has {shown(name)}; supported: full_attention, sliding_attention"
            )
    return attention_kinds(name == "sliding_attention" for name in names)


def _activation(fields: Fields, family: Family) -> str:
    key = "hidden_activation" if family.name == "gemma3" else "hidden_act"
    return _ACTIVATIONS[fields.choice(key, _ACTIVATIONS, family.default_activation)]


def _dtype(fields: Fields) -> str:
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    return fields.choice(key, DTYPES, "float32")
