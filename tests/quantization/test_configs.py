"""Reading `quantization_config`: which linears a scheme takes, and what it says to what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.models import build_model

CONFIG = ModelConfig(
    family="llama",
    vocab_size=40,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position=64,
    tie_word_embeddings=True,
    attention_scale=8**-0.5,
    layer_types=("full_attention", "full_attention"),
)
FP8 = {"type": "float", "num_bits": 8, "symmetric": True, "strategy": "tensor", "dynamic": False}
INT4 = {"type": "int", "num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 16}


def compressed(**changes: Any) -> dict[str, Any]:
    """The config of RedHatAI/Llama-3.2-1B-FP8 in substance, changed."""
    group = {"targets": ["Linear"], "weights": FP8, "input_activations": FP8, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": 1.46,
        "kv_cache_scheme": None,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {**group, **changes.pop("group", {})}},
        **changes,
    }


def build(quantization: Mapping[str, Any]) -> dict[str, str]:
    """The type of each linear's weights, by its checkpoint names."""
    config = replace(CONFIG, quantization=quantization)
    model = build_model(config, dtype=torch.bfloat16, max_model_len=64)
    return {
        name: str(module.weight.dtype).removeprefix("torch.")
        for module in model.modules()
        for name in getattr(module, "names", ())
        if "weight" in dict(module.named_parameters(recurse=False))
    }


def refusal(quantization: Mapping[str, Any]) -> str:
    with pytest.raises(ModelFileError) as caught:
        build(quantization)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_class_takes_every_linear_that_is_not_ignored() -> None:
    assert set(build(compressed()).values()) == {"float8_e4m3fn"}


def test_names_and_patterns_are_ignored_also_within_a_merged_linear() -> None:
    ignore = ["lm_head", "model.layers.0.self_attn.o_proj", r"re:.*layers\.1\.self_attn\.v_proj", "re:.*down"]
    types = build(compressed(ignore=ignore))
    plain = {name for name, kind in types.items() if kind == "bfloat16"}
    assert plain == {
        "model.layers.0.self_attn.o_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    }
    assert types["model.layers.1.self_attn.q_proj"] == "float8_e4m3fn"


def test_exact_names_count_before_patterns_and_patterns_before_classes() -> None:
    groups = {
        "all": {"targets": ["Linear"], "weights": FP8, "input_activations": FP8},
        "some": {"targets": ["re:.*mlp.*"], "weights": INT4, "format": "pack-quantized"},
        "one": {"targets": ["model.layers.1.mlp.down_proj"], "weights": FP8, "input_activations": FP8},
    }
    types = build(compressed(config_groups=groups))
    assert types["model.layers.0.mlp.down_proj"] == types["model.layers.1.mlp.up_proj"] == "uint8"
    assert (
        types["model.layers.1.mlp.down_proj"] == types["model.layers.0.self_attn.q_proj"] == "float8_e4m3fn"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": {"weights": {**FP8, "num_bits": 4}}}, "weights fp4 by tensor, inputs fp8 by tensor"),
        ({"group": {"weights": {**INT4, "num_bits": 3}}}, "weights int3 by group of 16"),
        ({"group": {"weights": INT4}, "format": "pack-quantized"}, "inputs fp8 by tensor, format 'pack-quan"),
        ({"group": {"weights": INT4, "input_activations": None}}, "format 'float-quantized': not supported"),
        ({"group": {"weights": {**FP8, "symmetric": False}}}, "asymmetric fp8 by tensor"),
        ({"group": {"weights": None}}, "weights none, inputs fp8"),
        ({"group": {"weights": {**FP8, "dynamic": True}}}, "dynamic is one of activations"),
        ({"group": {"weights": {**FP8, "strategy": "rows"}}}, "strategy is 'rows'; supported: tensor"),
        ({"group": {"weights": {**INT4, "group_size": 20}}}, "group_size is 20; supported: 128 for FP8"),
        ({"group": {"weights": {**FP8, "strategy": "group"}}}, "group_size is None with the strategy group"),
        ({"group": {"weights": {**FP8, "strategy": "block"}}}, "block_structure is None; supported: [128"),
        ({"group": {"weights": {**FP8, "twist": 1}}}, "'twist' is not known"),
        ({"group": {"weights": {**INT4, "actorder": "spiral"}}}, "actorder is 'spiral'"),
        ({"group": {"output_activations": FP8}}, "output_activations is set"),
        ({"group": {"targets": "Linear"}}, "targets is 'Linear', not a list of names"),
        ({"group": {"targets": ["re:*"]}}, "'re:*' is not a regular expression"),
        ({"format": "marlin-24"}, "format 'marlin-24': not supported; supported are FP8 weights"),
        ({"config_groups": None}, "config_groups is missing"),
        ({"config_groups": {"group_0": ["Linear"]}}, "config_groups['group_0'] is ['Linear'], not an object"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config is not empty"),
        ({"transform_config": {"config_groups": {"a": 1}}}, "transform_config is not empty"),
    ],
)  # fmt: skip
def test_compressed_tensors_that_ozone_has_not_are_refused(changes: dict[str, Any], message: str) -> None:
    text = refusal(compressed(**changes))
    assert text.startswith("the model's quantization_config: ")
    assert message in text


DEEPSEEK = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}


def test_fp8_leaves_out_modules_by_name_or_by_what_holds_them() -> None:
    skipped = ["model.layers.0.mlp", "self_attn.o_proj", "lm_head"]
    types = build({**DEEPSEEK, "modules_to_not_convert": skipped})
    plain = {name for name, kind in types.items() if kind == "bfloat16"}
    gate_up_down = {f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")}
    assert plain == gate_up_down | {f"model.layers.{i}.self_attn.o_proj" for i in (0, 1)}


def test_gptq_may_list_what_it_quantized() -> None:
    listed = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["mlp.down_proj"]]
    types = build({**GPTQ, "modules_in_block_to_quantize": listed})
    assert {name.rpartition(".")[2] for name, kind in types.items() if kind == "uint8"} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "down_proj",
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**DEEPSEEK, "weight_block_size": [64, 64]}, "weight_block_size is [64, 64]; supported: [128, 128]"),
        ({**DEEPSEEK, "activation_scheme": "static"}, "activation_scheme is static, but weights in blocks"),
        ({**DEEPSEEK, "fmt": "e5m2"}, "fmt is 'e5m2'"),
        (
            {**DEEPSEEK, "modules_to_not_convert": "lm_head"},
            "modules_to_not_convert is 'lm_head', not a list",
        ),
        ({**GPTQ, "bits": 8}, "bits is 8; supported: 4"),
        ({**GPTQ, "group_size": 12}, "group_size is 12; supported: multiples of 8"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; supported: gptq, gptq_v2"),
        ({**GPTQ, "lm_head": True}, "lm_head is true"),
        ({**GPTQ, "dynamic": {"-:.*k_proj": {}}}, "dynamic is set"),
        ({**GPTQ, "bits": None}, "bits is missing"),
        ({**AWQ, "version": "gemv"}, "version is 'gemv'; supported: gemm"),
        ({**AWQ, "backend": "llm-awq"}, "backend is 'llm-awq'"),
    ],
)
def test_other_schemes_say_what_they_have(config: dict[str, Any], message: str) -> None:
    assert message in refusal(config)
