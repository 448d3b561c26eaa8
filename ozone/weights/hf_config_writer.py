"""A `ModelConfig` as Hugging Face's ``config.json``, for models whose own file is none: GGUF."""

from __future__ import annotations

from typing import Any

from ozone.config.families import FAMILIES
from ozone.config.model import ModelConfig, RopeConfig
from ozone.errors import ModelFileError

_MODEL_TYPES = {"gemma3": "gemma3_text"}  # the others are called as their family
# Llama 3's published scalings, of which a GGUF file keeps only the resulting divisors of frequencies.
_LLAMA3_FACTORS = (8.0, 32.0)
_LLAMA3_TRAINED = 8192


def hf_config(config: ModelConfig, where: str) -> dict[str, Any]:
    """What `ozone.weights.hf_config.read_hf_config` reads as `config`, and transformers and vLLM too.

    Raises: `ModelFileError`, with `where` naming the source, for what a ``config.json`` cannot say.
    """
    family = next(family for family in FAMILIES if family.name == config.family)
    values: dict[str, Any] = {
        "architectures": [family.hf_architectures[0]],
        "model_type": _MODEL_TYPES.get(config.family, config.family),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_activation" if config.family == "gemma3" else "hidden_act": config.hidden_act,
        "torch_dtype": config.dtype,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _one_or_list(config.eos_token_ids),
        "use_cache": True,
    }
    _add_biases(values, config, where)
    _add_windows(values, config)
    _add_ropes(values, config, where)
    if config.family == "gemma3":
        scalar = config.attention_scale**-2
        whole = round(scalar)  # which transformers demands, where it is one but for rounding
        values["query_pre_attn_scalar"] = whole if abs(scalar - whole) < 1e-6 * scalar else scalar
        values["attn_logit_softcapping"] = config.attention_softcap
        values["final_logit_softcapping"] = config.logit_softcap
    return values


def _one_or_list(ids: tuple[int, ...]) -> int | list[int] | None:
    if len(ids) > 1:
        return list(ids)
    return ids[0] if ids else None


def _add_biases(values: dict[str, Any], config: ModelConfig, where: str) -> None:
    if config.family in ("mistral", "qwen2"):
        expected = (config.family == "qwen2", False, False)
    else:
        values["attention_bias"] = config.qkv_bias
        expected = (config.qkv_bias, config.qkv_bias, config.mlp_bias and config.family == "llama")
    if config.family == "llama":
        values["mlp_bias"] = config.mlp_bias
    if (config.qkv_bias, config.o_bias, config.mlp_bias) != expected:
        raise ModelFileError(
            f"{where}: a config.json of {config.family} cannot name the biases of this model"
        )


def _add_windows(values: dict[str, Any], config: ModelConfig) -> None:
    values["sliding_window"] = config.sliding_window
    if config.family.startswith("qwen"):
        values["use_sliding_window"] = config.sliding_window is not None
    if config.family not in ("llama", "mistral"):
        values["layer_types"] = list(config.layer_types)


def _add_ropes(values: dict[str, Any], config: ModelConfig, where: str) -> None:
    rope = config.rope
    if rope.partial != 1.0:
        raise ModelFileError(f"{where}: only a part of each head rotates, which its config.json cannot say")
    values["rope_theta"] = rope.theta
    if config.rope_local is not None:
        values["rope_local_base_freq"] = config.rope_local.theta
    scaling = _scaling(rope, config, where)
    if scaling is not None:
        values["rope_scaling"] = scaling
    if rope.scaling == "linear" and config.family != "gemma3":
        # Readers stretch the trained length that the file states.
        values["max_position_embeddings"] = round(config.max_position / rope.factor)


def _scaling(rope: RopeConfig, config: ModelConfig, where: str) -> dict[str, Any] | None:
    if rope.frequency_factors is not None:
        return _llama3_scaling(rope, config, where)
    if rope.scaling == "none":
        return None
    scaling: dict[str, Any] = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "llama3":
        scaling["low_freq_factor"] = rope.low_freq_factor
        scaling["high_freq_factor"] = rope.high_freq_factor
    if rope.scaling in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original_max_position
    if rope.scaling == "yarn":
        scaling["beta_fast"], scaling["beta_slow"] = rope.beta_fast, rope.beta_slow
        if rope.attention_factor is not None:
            scaling["attention_factor"] = rope.attention_factor
    return scaling


def _llama3_scaling(rope: RopeConfig, config: ModelConfig, where: str) -> dict[str, Any]:
    """The settings whose divisors are those of the file."""
    for factor in _LLAMA3_FACTORS:
        expected = _llama3_divisors(rope.theta, config.head_dim, factor)
        pairs = zip(rope.frequency_factors or (), expected, strict=True)
        if all(abs(found - divisor) <= 1e-3 * divisor for found, divisor in pairs):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": _LLAMA3_TRAINED,
            }
    raise ModelFileError(
        f"{where}: its rope_freqs are none of Llama 3's, and a config.json cannot hold them as they are"
    )


def _llama3_divisors(theta: float, head_dim: int, factor: float) -> list[float]:
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * 3.141592653589793 * theta ** (i / head_dim)
        blend = min(max((_LLAMA3_TRAINED / wavelength - 1.0) / 3.0, 0.0), 1.0)
        divisors.append(1 / ((1 - blend) / factor + blend))
    return divisors
