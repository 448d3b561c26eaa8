"""GGUF metadata as a `ModelConfig`.

GGUF says less than a `config.json`: what it leaves out follows from the tensor table (vocabulary size,
tied embeddings, biases) or is fixed for an architecture (Gemma 3's pattern of sliding layers).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from ozone.config.families import FAMILIES, Family
from ozone.config.model import AttentionKind, ModelConfig, RopeConfig
from ozone.errors import ModelFileError, shown
from ozone.weights.fields import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, Fields, attention_kinds, check_heads
from ozone.weights.gguf_file import GGUFFile, StringArray
from ozone.weights.gguf_names import canonical_name
from ozone.weights.gguf_types import BLOCK_TYPES
from ozone.weights.rope import DEFAULT_THETA, GEMMA3_GLOBAL_THETA, read_theta, usable_context

ROPE_FREQUENCIES = "rope_freqs.weight"
GEMMA3_SLIDING_PATTERN = 6
GEMMA3_27B_LAYERS = 62
_TOKENIZER = "tokenizer.ggml."
_FLOAT_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def gguf_family(file: GGUFFile) -> Family:
    """The row of `FAMILIES` that a file's ``general.architecture`` names."""
    architecture = Fields(file.metadata, str(file.path)).text("general.architecture")
    for family in FAMILIES:
        if architecture in family.gguf_architectures:
            return family
    supported = ", ".join(name for family in FAMILIES for name in family.gguf_architectures)
    raise ModelFileError(
        f"{file.path}: the architecture {shown(architecture)} is not supported (supported: {supported})"
    )


def read_gguf_config(file: GGUFFile) -> ModelConfig:
    """The model's geometry and arithmetic; `ModelFileError` where a key is missing or makes no sense."""
    family = gguf_family(file)
    fields = _ArchitectureFields(file)
    _refuse_variants(fields, file)
    hidden_size = fields.size("embedding_length", most=MAX_WIDTH)
    num_heads = fields.per_layer_size("attention.head_count")
    num_kv_heads = fields.per_layer_size("attention.head_count_kv", default=num_heads)
    head_dim = _head_dim(fields, hidden_size, num_heads)
    check_heads(fields, num_heads, num_kv_heads, head_dim)
    num_layers = fields.size("block_count", most=MAX_LAYERS)
    vocab_size = _vocab_size(file, hidden_size)
    sliding_window = fields.count("attention.sliding_window", 0) or None
    layer_types = _layer_types(fields, family, num_layers, sliding_window)
    rope, rope_local = _ropes(fields, file, family, head_dim)
    context_length = fields.size("context_length", most=MAX_CONTEXT)
    return ModelConfig(
        family="mistral" if family.name == "llama" and sliding_window else family.name,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.per_layer_size("feed_forward_length"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon", 1e-6),
        max_position=context_length if family.name == "gemma3" else usable_context(context_length, rope),
        tie_word_embeddings="output.weight" not in file.tensors,
        attention_scale=_attention_scale(fields, family, num_layers, hidden_size, num_heads, head_dim),
        layer_types=layer_types,
        qkv_bias=family.qkv_bias or "blk.0.attn_q.bias" in file.tensors,
        o_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_down.bias" in file.tensors,
        hidden_act=family.default_activation,
        rope=rope,
        rope_local=rope_local,
        sliding_window=sliding_window if "sliding_attention" in layer_types else None,
        attention_softcap=fields.number("attn_logit_softcapping"),
        logit_softcap=fields.number("final_logit_softcapping"),
        embedding_scale=math.sqrt(hidden_size) if family.scaled_embedding else 1.0,
        qk_norm=family.qk_norm,
        norm_offset=family.norm_offset,
        dtype=_dtype(file),
        bos_token_id=next(iter(_token_ids(file, "bos")), None),
        eos_token_ids=_token_ids(file, "eos", "eot", "eom"),  # end of sequence, of turn, of message
        quantization=_quantization(file, family),
    )


class _ArchitectureFields(Fields):
    """The metadata under ``{architecture}.``, named without that prefix."""

    def __init__(self, file: GGUFFile) -> None:
        prefix = f"{file.metadata['general.architecture']}."
        values = {key[len(prefix) :]: value for key, value in file.metadata.items() if key.startswith(prefix)}
        super().__init__(values, str(file.path))
        self.prefix = prefix

    def fail(self, key: str, problem: str) -> ModelFileError:
        return super().fail(self.prefix + key, problem)

    def per_layer_size(self, key: str, default: int | None = None) -> int:
        """A size that GGUF may also give once per layer; layers that differ are refused."""
        value = self.values.get(key)
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.size:
            if (value != value[0]).any():
                raise self.fail(key, "differs from layer to layer, which is not supported")
            return Fields({key: value[0].item()}, self.where).size(key, most=MAX_WIDTH)
        return self.size(key, default, MAX_WIDTH)


def _refuse_variants(fields: _ArchitectureFields, file: GGUFFile) -> None:
    """Files that share an architecture's name and are yet another kind of model or only a part of one."""
    if fields.count("expert_count", 0):
        raise ModelFileError(f"{file.path}: mixture-of-experts models are not supported")
    if Fields(file.metadata, str(file.path)).count("split.count", 0) > 1:
        raise ModelFileError(
            f"{file.path}: is one part of a split GGUF; merge the parts first (llama-gguf-split --merge)"
        )


def _head_dim(fields: _ArchitectureFields, hidden_size: int, num_heads: int) -> int:
    if not fields.has("attention.key_length") and hidden_size % num_heads:
        raise fields.fail("embedding_length", f"{hidden_size} is not a multiple of {num_heads} heads")
    head_dim = fields.size("attention.key_length", hidden_size // num_heads, MAX_WIDTH)
    if fields.size("attention.value_length", head_dim) != head_dim:
        raise fields.fail("attention.value_length", f"differs from the key length {head_dim}")
    return head_dim


def _vocab_size(file: GGUFFile, hidden_size: int) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelFileError(f"{file.path}: the tensor token_embd.weight is missing")
    if len(embedding.shape) != 2 or embedding.shape[1] != hidden_size:
        raise ModelFileError(
            f"{file.path}: token_embd.weight has the shape {embedding.shape}, not (tokens, {hidden_size})"
        )
    tokens = file.metadata.get(_TOKENIZER + "tokens")
    if isinstance(tokens, StringArray) and len(tokens) > embedding.shape[0]:
        raise ModelFileError(f"{file.path}: {len(tokens)} tokens, but only {embedding.shape[0]} embeddings")
    return embedding.shape[0]


def _layer_types(
    fields: _ArchitectureFields, family: Family, num_layers: int, window: int | None
) -> tuple[AttentionKind, ...]:
    if window is None:
        return attention_kinds([False] * num_layers)
    if family.name != "gemma3":
        return attention_kinds([True] * num_layers)
    pattern = fields.values.get("attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray) and pattern.dtype == np.bool_:
        if len(pattern) != num_layers:
            raise fields.fail("attention.sliding_window_pattern", f"does not have {num_layers} entries")
        return attention_kinds(pattern.tolist())
    period = fields.size("attention.sliding_window_pattern", GEMMA3_SLIDING_PATTERN)
    return attention_kinds((layer + 1) % period != 0 for layer in range(num_layers))


def _attention_scale(
    fields: _ArchitectureFields,
    family: Family,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    head_dim: int,
) -> float:
    default: float = head_dim**-0.5
    if family.name == "gemma3" and num_layers == GEMMA3_27B_LAYERS:
        # Gemma 3 27B alone scales by hidden_size / heads, and GGUF has no key that would say so.
        default = (hidden_size / num_heads) ** -0.5
    return fields.number("attention.scale", default)


def _ropes(
    fields: _ArchitectureFields, file: GGUFFile, family: Family, head_dim: int
) -> tuple[RopeConfig, RopeConfig | None]:
    """Rotary embedding of full-attention layers, and of sliding ones where it differs."""
    rotated = fields.size("rope.dimension_count", head_dim)
    if rotated > head_dim or rotated % 2:
        raise fields.fail("rope.dimension_count", f"{rotated} does not fit heads of {head_dim}")
    is_gemma = family.name == "gemma3"
    rope = replace(
        _scaled_rope(fields),
        theta=read_theta(fields, "rope.freq_base", GEMMA3_GLOBAL_THETA if is_gemma else DEFAULT_THETA),
        partial=rotated / head_dim,
        frequency_factors=_frequency_factors(file, rotated),
    )
    if not is_gemma:
        return rope, None
    local_theta = read_theta(fields, "rope.freq_base_swa", DEFAULT_THETA)
    return rope, RopeConfig(theta=local_theta, partial=rotated / head_dim)


def _scaled_rope(fields: _ArchitectureFields) -> RopeConfig:
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    scaling = fields.choice("rope.scaling.type", ("none", "linear", "yarn"), "linear")
    if scaling == "none" or factor == 1.0:
        return RopeConfig()
    if scaling == "linear":
        return RopeConfig(scaling="linear", factor=factor)
    magnitude = fields.number("rope.scaling.attn_factor")
    return RopeConfig(
        scaling="yarn",
        factor=factor,
        original_max_position=fields.size(
            "rope.scaling.original_context_length", fields.size("context_length"), MAX_CONTEXT
        ),
        # GGUF's factor comes on top of YaRN's own 0.1 ln(factor) + 1; RopeConfig's replaces it.
        attention_factor=magnitude and magnitude * (0.1 * math.log(max(factor, 1.0)) + 1.0),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
    )


def _frequency_factors(file: GGUFFile, rotated: int) -> tuple[float, ...] | None:
    info = file.tensors.get(ROPE_FREQUENCIES)
    if info is None:
        return None
    if info.kind.name != "F32" or info.shape != (rotated // 2,):
        raise ModelFileError(
            f"{file.path}: {ROPE_FREQUENCIES} is {info.kind.name} {info.shape}, not F32 ({rotated // 2},)"
        )
    factors = file.tensor_data(info).view("<f4")
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ModelFileError(f"{file.path}: {ROPE_FREQUENCIES} has values that are not positive numbers")
    return tuple(factors.tolist())


def _dtype(file: GGUFFile) -> str:
    """The type of most matrices; quantized ones count as the bfloat16 that they are computed in."""
    kinds = Counter(info.kind.name for info in file.tensors.values() if len(info.shape) == 2)
    return _FLOAT_NAMES.get(kinds.most_common(1)[0][0], "bfloat16")


def _quantization(file: GGUFFile, family: Family) -> dict[str, Any] | None:
    """What a `quantization_config` would say: the block type of each matrix, by its checkpoint name without
    ``.weight``; None where all are plain numbers.
    """
    types = {
        canonical_name(info.name, family).removesuffix(".weight"): info.kind.name
        for info in file.tensors.values()
        if len(info.shape) == 2
    }
    if all(BLOCK_TYPES[kind].block_size == 1 for kind in types.values() if kind in BLOCK_TYPES):
        return None
    return {"quant_method": "gguf", "types": types}


def _token_ids(file: GGUFFile, *roles: str) -> tuple[int, ...]:
    fields = Fields(file.metadata, str(file.path))
    ids = (i for role in roles for i in fields.token_ids(f"{_TOKENIZER}{role}_token_id"))
    return tuple(dict.fromkeys(ids))


def gguf_generation_config(file: GGUFFile) -> dict[str, Any]:
    """The sampling defaults that a GGUF file recommends, under ``generation_config.json``'s names."""
    fields = Fields(file.metadata, str(file.path))
    names = {
        "temperature": "temp",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "penalty_repeat",
    }
    config: dict[str, Any] = {
        name: value
        for name, key in names.items()
        if (value := fields.number(f"general.sampling.{key}", positive=False)) is not None
    }
    if top_k := fields.count("general.sampling.top_k", 0):
        config["top_k"] = top_k
    return config
