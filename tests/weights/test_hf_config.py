"""config.json reads as transformers' own configuration classes read it, defaults and old layouts included."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest

from ozone.config.model import ModelConfig, RopeConfig
from ozone.errors import ModelFileError
from ozone.weights.hf_config import read_hf_config

GEOMETRY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig"),
    "mistral": ("MistralForCausalLM", "MistralConfig"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config"),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig"),
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in ARCHITECTURES),
    ("llama", GEOMETRY),
    ("llama", GEOMETRY | {"num_key_value_heads": None, "attention_bias": True, "mlp_bias": True}),
    ("llama", GEOMETRY | {"head_dim": 32, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    ("llama", GEOMETRY | {"rope_theta": 5e5, "rope_scaling": LLAMA3, "eos_token_id": [5, 7, 9]}),
    ("llama", GEOMETRY | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "bos_token_id": None}),
    ("llama", GEOMETRY | {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e5}),
    ("llama", GEOMETRY | {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}),
    ("llama", GEOMETRY | {"rope_scaling": YARN}),
    ("llama", GEOMETRY | {"rope_scaling": YARN | {"attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2}}),
    ("llama", GEOMETRY | {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.1}}),
    ("llama", GEOMETRY | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
    ("llama", GEOMETRY | {"sliding_window": 32, "final_logit_softcapping": 3.0}),
    ("mistral", GEOMETRY | {"sliding_window": None, "rope_theta": 1e6, "head_dim": 16}),
    ("mistral", GEOMETRY | {"sliding_window": 32}),
    ("qwen2", GEOMETRY | {"use_sliding_window": False, "sliding_window": 32, "max_window_layers": 2}),
    ("qwen2", GEOMETRY | {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}),
    ("qwen2", GEOMETRY | {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0}),
    (
        "qwen2",
        GEOMETRY
        | {"use_sliding_window": True, "sliding_window": 9}
        | {"layer_types": ["full_attention", "sliding_attention", *["full_attention"] * 5]},
    ),
    ("qwen2", GEOMETRY | {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e6}),
    ("qwen3", GEOMETRY | {"tie_word_embeddings": True}),
    ("qwen3", GEOMETRY | {"attention_bias": True, "head_dim": 16, "rope_theta": 1e6}),
    ("gemma3", GEOMETRY | {"sliding_window": 32, "head_dim": 16, "query_pre_attn_scalar": 20}),
    ("gemma3", GEOMETRY | {"sliding_window_pattern": 3, "rope_theta": 1e5, "rope_local_base_freq": 2e4}),
    ("gemma3", GEOMETRY | {"_sliding_window_pattern": 6, "tie_word_embeddings": False}),
    ("gemma3", GEOMETRY | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 1e6}),
    ("gemma3", GEOMETRY | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    ("gemma3", GEOMETRY | {"layer_types": ["full_attention"] * 7, "attention_bias": True}),
    (
        "gemma3",
        GEOMETRY
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 3e4},
            }
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("family", "values"), CASES, ids=lambda item: item if isinstance(item, str) else "")
def test_a_config_reads_as_transformers_reads_it(family: str, values: Mapping[str, Any]) -> None:
    import transformers

    architecture, class_name = ARCHITECTURES[family]
    reference = getattr(transformers, class_name)(**copy.deepcopy(dict(values)))
    assert_as_reference(read(family, values), reference)
    # The reference's own serialization, in today's layout, says the same.
    saved = reference.to_dict() | {"architectures": [architecture], "dtype": "float32"}
    assert_as_reference(read_hf_config(saved, "config.json"), reference)


def read(family: str, values: Mapping[str, Any]) -> ModelConfig:
    return read_hf_config({**values, "architectures": [ARCHITECTURES[family][0]]}, "config.json")


def assert_as_reference(config: ModelConfig, reference: Any) -> None:
    family = config.family
    heads = reference.num_attention_heads
    assert config.vocab_size == reference.vocab_size
    assert config.hidden_size == reference.hidden_size
    assert config.intermediate_size == reference.intermediate_size
    assert config.num_layers == reference.num_hidden_layers
    assert (config.num_heads, config.num_kv_heads) == (heads, reference.num_key_value_heads)
    assert config.head_dim == (getattr(reference, "head_dim", None) or reference.hidden_size // heads)
    assert config.rms_norm_eps == reference.rms_norm_eps
    assert config.tie_word_embeddings == reference.tie_word_embeddings
    has_bias = getattr(reference, "attention_bias", False)
    assert config.qkv_bias == (family == "qwen2" or has_bias)
    assert config.o_bias == has_bias
    assert config.mlp_bias == getattr(reference, "mlp_bias", False)
    act = reference.hidden_activation if family == "gemma3" else reference.hidden_act
    assert config.hidden_act == act
    assert config.bos_token_id == reference.bos_token_id
    eos = reference.eos_token_id
    assert config.eos_token_ids == (() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,))
    is_gemma = family == "gemma3"
    scalar = reference.query_pre_attn_scalar if is_gemma else config.head_dim
    assert config.attention_scale == pytest.approx(scalar**-0.5)
    assert config.attention_softcap == (reference.attn_logit_softcapping if is_gemma else None)
    assert config.logit_softcap == (reference.final_logit_softcapping if is_gemma else None)
    assert config.embedding_scale == (math.sqrt(config.hidden_size) if is_gemma else 1.0)
    assert_layers_as_reference(config, reference)
    assert_rope_as_reference(config, reference)


def assert_layers_as_reference(config: ModelConfig, reference: Any) -> None:
    window = getattr(reference, "sliding_window", None) if config.family != "llama" else None
    if config.family in ("llama", "mistral"):
        layer_types = ["full_attention" if window is None else "sliding_attention"] * config.num_layers
    else:
        layer_types = reference.layer_types
    assert list(config.layer_types) == layer_types
    assert config.sliding_window == (window if "sliding_attention" in layer_types else None)


def assert_rope_as_reference(config: ModelConfig, reference: Any) -> None:
    if config.family != "gemma3":
        assert config.rope_local is None
        assert_rope(config.rope, reference.rope_parameters)
        return
    assert config.rope_local is not None
    assert_rope(config.rope, reference.rope_parameters["full_attention"])
    assert_rope(config.rope_local, reference.rope_parameters["sliding_attention"])


def assert_rope(rope: RopeConfig, reference: Mapping[str, Any]) -> None:
    kind = reference["rope_type"]
    assert rope.scaling == ("none" if kind == "default" else kind)
    assert rope.theta == reference["rope_theta"]
    assert rope.partial == 1.0
    if kind != "default":
        assert rope.factor == reference["factor"]
    if kind in ("llama3", "yarn"):
        assert rope.original_max_position == reference["original_max_position_embeddings"]
    if kind == "llama3":
        assert rope.low_freq_factor == reference["low_freq_factor"]
        assert rope.high_freq_factor == reference["high_freq_factor"]
    if kind == "yarn":
        assert rope.beta_fast == reference.get("beta_fast", 32)
        assert rope.beta_slow == reference.get("beta_slow", 1)
        if "mscale" not in reference:
            assert rope.attention_factor == reference.get("attention_factor")


def test_yarn_s_two_magnitudes_give_the_reference_s_attention_factor() -> None:
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = YARN | {"mscale": 0.7, "mscale_all_dim": 1.1}
    reference = transformers.LlamaConfig(**GEOMETRY, rope_scaling=dict(scaling))
    _, factor = ROPE_INIT_FUNCTIONS["yarn"](reference)
    config = read("llama", GEOMETRY | {"rope_scaling": scaling})
    assert config.rope.attention_factor == pytest.approx(factor)


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [(None, 256), (LLAMA3, 256), ({"type": "linear", "factor": 2.5}, 640), (YARN | {"factor": 16.0}, 1024)],
)
def test_the_context_counts_what_scaling_adds(scaling: dict[str, Any] | None, tokens: int) -> None:
    assert read("llama", GEOMETRY | {"rope_scaling": scaling}).max_position == tokens


def test_gemma3_states_its_stretched_context() -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    assert read("gemma3", GEOMETRY | {"rope_scaling": scaling}).max_position == 256


def test_layers_may_have_a_rope_each() -> None:
    parameters = {
        "full_attention": {"rope_type": "linear", "factor": 2.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    }
    config = read("qwen3", GEOMETRY | {"rope_parameters": parameters, "rope_theta": 2e4})
    assert (config.rope.theta, config.rope.factor) == (2e4, 2.0)
    assert config.rope_local == RopeConfig(theta=5e3)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [({"dtype": "float16"}, "float16"), ({"torch_dtype": "bfloat16"}, "bfloat16"), ({}, "float32")],
)
def test_the_dtype_has_an_old_and_a_new_name(values: dict[str, Any], dtype: str) -> None:
    assert read("llama", GEOMETRY | values).dtype == dtype


def test_the_quantization_is_passed_on() -> None:
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert read("llama", {"quantization_config": quantization}).quantization == quantization


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_size": 0}, "hidden_size is 0, not a whole number"),
    ("llama", {"hidden_size": -64}, "hidden_size is -64"),
    ("llama", {"hidden_size": True}, "hidden_size is True"),
    ("llama", {"hidden_size": "64"}, "hidden_size is '64'"),
    ("llama", {"hidden_size": 10**400}, "hidden_size is 1000"),
    ("llama", {"hidden_size": 64.5}, "hidden_size is 64.5"),
    ("llama", {"hidden_size": None}, "hidden_size is missing"),
    ("llama", {"vocab_size": [100]}, "vocab_size is "),
    ("llama", {"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000"),
    ("llama", {"num_attention_heads": 7}, "64 is not a multiple of 7 attention heads"),
    ("llama", {"num_key_value_heads": 3}, "8 attention heads cannot share 3 key/value heads"),
    ("llama", {"head_dim": 5}, "head dimension 5 is odd"),
    ("llama", {"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
    ("llama", {"rms_norm_eps": 10**400}, "rms_norm_eps is 1000"),
    ("llama", {"rms_norm_eps": -1e-6}, "not a positive finite number"),
    ("llama", {"rope_theta": math.inf}, "rope_theta is inf"),
    ("llama", {"rope_theta": 0}, "rope_theta is 0"),
    ("llama", {"rope_theta": 1}, "rope_theta is 1.0, not a number greater than 1"),
    ("llama", {"rope_theta": 0.5, "rope_scaling": YARN}, "rope_theta is 0.5, not a number greater"),
    ("llama", {"rope_scaling": YARN | {"beta_slow": 5e-324}}, "beta_slow is 5e-324, not a positive"),
    ("llama", {"max_position_embeddings": 1 << 31}, "2147483648, not a whole number from 1 to 16777216"),
    ("llama", {"rope_scaling": YARN | {"original_max_position_embeddings": 1 << 25}}, "33554432, not"),
    ("llama", {"num_hidden_layers": 1025}, "1025, not a whole number from 1 to 1024"),
    ("llama", {"vocab_size": 1 << 31}, "vocab_size is 2147483648"),
    ("llama", {"head_dim": 1 << 25}, "8 attention heads of 33554432 are more than 67108864 columns"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', not true or false"),
    ("llama", {"hidden_act": "relu"}, "hidden_act is 'relu'; supported: silu"),
    ("llama", {"dtype": "float8"}, "dtype is 'float8'; supported: float32, float16, bfloat16"),
    ("llama", {"eos_token_id": "</s>"}, "not a token id or a list of token ids"),
    ("llama", {"eos_token_id": [1, -1]}, "not a token id or a list of token ids"),
    ("llama", {"rope_scaling": [8]}, r"rope_scaling is \[8\], not an object"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic'; supported: default, linear"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "factor is missing"),
    ("llama", {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "not greater than low_freq_factor"),
    ("llama", {"rope_scaling": LLAMA3 | {"low_freq_factor": None}}, "low_freq_factor is missing"),
    ("llama", {"rope_scaling": YARN | {"truncate": False}}, "truncate is false"),
    ("llama", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5, more than the whole head"),
    ("llama", {"partial_rotary_factor": 0}, "partial_rotary_factor is 0"),
    ("llama", {"partial_rotary_factor": 0.01}, "partial_rotary_factor"),
    ("gemma3", {"rope_parameters": {"rope_type": "default"}}, "neither full_attention nor sliding"),
    ("gemma3", {"rope_parameters": {"full_attention": 5}}, "5 where an object is expected"),
    ("gemma3", {"sliding_window": None}, "sliding_window is missing, but some layers are sliding"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
    ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
    ("qwen2", {"layer_types": ["full_attention"]}, "not a list of 7 entries"),
    ("qwen2", {"layer_types": ["full_attention"] * 6 + ["mamba"]}, "has 'mamba'; supported"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 7}, "sliding_window is missing"),
    ("qwen2", {"max_window_layers": -1}, "max_window_layers is -1"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "values", "message"), REFUSED)
def test_values_that_make_no_sense_are_refused(family: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read(family, GEOMETRY | values)
    assert str(caught.value).startswith("config.json: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("architectures", [["MambaForCausalLM"], 7, [["x"]]])
def test_an_unknown_architecture_names_the_supported_ones(architectures: Any) -> None:
    with pytest.raises(ModelFileError, match=r"not supported \(supported: LlamaForCausalLM, .*Gemma3"):
        read_hf_config({"architectures": architectures}, "config.json")


@pytest.mark.parametrize(
    ("model_type", "family"),
    [("llama", "llama"), ("mistral", "mistral"), ("qwen3", "qwen3"), ("gemma3_text", "gemma3")],
)
@pytest.mark.parametrize("architectures", [None, []])
def test_without_architectures_the_model_type_says_what_it_is(
    model_type: str, family: str, architectures: Any
) -> None:
    values = GEOMETRY | {"architectures": architectures, "model_type": model_type}
    assert read_hf_config(values, "config.json").family == family


@pytest.mark.parametrize("model_type", ["mamba", None, 7, "gemma3"])
def test_an_unknown_model_type_names_the_supported_ones(model_type: Any) -> None:
    with pytest.raises(ModelFileError, match=r"no architectures.*supported: llama, .*gemma3_text"):
        read_hf_config(GEOMETRY | {"architectures": None, "model_type": model_type}, "config.json")


@pytest.mark.parametrize("where", ["partial_rotary_factor", "rope_parameters"])
def test_a_part_of_each_head_may_rotate(where: str) -> None:
    factor = {"partial_rotary_factor": 0.5}
    values = GEOMETRY | (factor if where == "partial_rotary_factor" else {"rope_parameters": factor})
    assert read("llama", values).rope.partial == 0.5
