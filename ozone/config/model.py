"""What a checkpoint says about its model, in one vocabulary for every source and family.

The readers under `ozone/weights/` fill a `ModelConfig` from `config.json` or from GGUF metadata; the
models, the engine and the resolution of levels read it. Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AttentionKind = Literal["full_attention", "sliding_attention"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding of one kind of layer.

    Attributes:
        theta: base of the frequencies.
        scaling: how positions beyond the trained range are reached.
        factor: scaling factor of ``linear``, ``llama3`` and ``yarn``.
        low_freq_factor, high_freq_factor: ``llama3`` only.
        original_max_position: trained context length, ``llama3`` and ``yarn``.
        attention_factor, beta_fast, beta_slow: ``yarn`` only.
        partial: share of each head's columns that rotates, 0 < partial <= 1.
        frequency_factors: divisors of each frequency (GGUF's ``rope_freqs.weight``), or None.
    """

    theta: float = 10000.0
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    partial: float = 1.0
    frequency_factors: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The geometry and arithmetic of a decoder-only model.

    Attributes:
        family: name of the row in `ozone.config.families.FAMILIES`.
        vocab_size, hidden_size, intermediate_size, num_layers: sizes, in elements.
        num_heads, num_kv_heads, head_dim: attention geometry (grouped queries).
        rms_norm_eps: epsilon of every RMS norm.
        max_position: longest context the checkpoint allows, in tokens.
        tie_word_embeddings: the output projection is the embedding table.
        qkv_bias, o_bias, mlp_bias: which linears have biases.
        hidden_act: ``silu`` or ``gelu_pytorch_tanh``.
        rope: rotary embedding of full-attention layers; `rope_local` of sliding ones where it differs.
        sliding_window: window in tokens (a token sees itself and window-1 before it), or None.
        layer_types: one entry per layer.
        attention_scale: factor on q.k before softmax.
        attention_softcap, logit_softcap: tanh soft-capping, or None.
        embedding_scale: factor on the embeddings (1.0: none).
        qk_norm, norm_offset: as in `Family`.
        dtype: the checkpoint's own dtype, ``float32``, ``float16`` or ``bfloat16``.
        bos_token_id, eos_token_ids: from the config; the generation config may add to them.
        quantization: ``quantization_config`` of the checkpoint as it stands, or None. Of a GGUF file with
            quantized matrices, their types: ``{"quant_method": "gguf", "types": {name: type}}``.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position: int
    tie_word_embeddings: bool
    attention_scale: float
    layer_types: tuple[AttentionKind, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    rope: RopeConfig = field(default_factory=RopeConfig)
    rope_local: RopeConfig | None = None
    sliding_window: int | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    qk_norm: bool = False
    norm_offset: bool = False
    dtype: str = "bfloat16"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    quantization: Mapping[str, Any] | None = None
