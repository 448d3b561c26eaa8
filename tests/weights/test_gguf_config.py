"""GGUF metadata and config.json of the same model read as the same config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_helpers import ARRAY, BOOL, F32, I32, LLAMA_CONFIG, STRING, U32, gguf_model, llama_tensors

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.weights.gguf_config import gguf_generation_config, read_gguf_config
from ozone.weights.gguf_file import GGUFFile
from ozone.weights.hf_config import read_hf_config

Changes = dict[str, tuple[int, Any] | None]


def read(
    tmp_path: Path, changes: Mapping[str, Any] = {}, tensors: dict[str, np.ndarray] | None = None
) -> ModelConfig:
    (tmp_path / "model.gguf").write_bytes(gguf_model(changes, tensors))
    return read_gguf_config(GGUFFile(tmp_path / "model.gguf"))


def as_architecture(name: str, changes: Mapping[str, Any] = {}) -> Changes:
    """The geometry of the small llama under another architecture's keys."""
    return {
        "general.architecture": (STRING, name),
        f"{name}.block_count": (U32, 2),
        f"{name}.context_length": (U32, 128),
        f"{name}.embedding_length": (U32, 32),
        f"{name}.feed_forward_length": (U32, 64),
        f"{name}.attention.head_count": (U32, 4),
        f"{name}.attention.head_count_kv": (U32, 2),
        f"{name}.attention.layer_norm_rms_epsilon": (F32, 1e-6),
        **{f"{name}.{key}": value for key, value in changes.items()},
    }


def assert_same(config: ModelConfig, hf: dict[str, Any]) -> None:
    expected = read_hf_config({**LLAMA_CONFIG, "eos_token_id": 3, "bos_token_id": None, **hf}, "config.json")
    for item in fields(ModelConfig):
        left, right = getattr(config, item.name), getattr(expected, item.name)
        if isinstance(right, float):
            assert math.isclose(left, right, rel_tol=1e-7), item.name
        else:
            assert left == right, item.name


UNTIED = {"output.weight": np.zeros((16, 32), np.float32)}


def test_llama(tmp_path: Path) -> None:
    config = read(tmp_path, tensors=llama_tensors() | UNTIED)
    assert_same(config, {"rms_norm_eps": 1e-5})


def test_embeddings_are_tied_where_there_is_no_output_tensor(tmp_path: Path) -> None:
    assert read(tmp_path).tie_word_embeddings
    assert not read(tmp_path, tensors=llama_tensors() | UNTIED).tie_word_embeddings


def test_qwen2_with_biases(tmp_path: Path) -> None:
    tensors = llama_tensors() | UNTIED | {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    changes = as_architecture("qwen2", {"rope.freq_base": (F32, 1e6)})
    hf = {"architectures": ["Qwen2ForCausalLM"], "rope_theta": 1e6}
    assert_same(read(tmp_path, changes, tensors), hf)


def test_qwen3_with_wide_heads(tmp_path: Path) -> None:
    changes = as_architecture(
        "qwen3", {"attention.key_length": (U32, 16), "attention.value_length": (U32, 16)}
    )
    hf = {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
    assert_same(read(tmp_path, changes, llama_tensors() | UNTIED), hf)


GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 512,
    "num_hidden_layers": 13,
}


def gemma3(more: Mapping[str, Any] = {}) -> Changes:
    changes = as_architecture(
        "gemma3",
        {
            "attention.key_length": (U32, 16),
            "attention.value_length": (U32, 16),
            "attention.sliding_window": (U32, 512),
            "rope.freq_base": (F32, 1e6),
            **more,
        },
    )
    return changes | {"gemma3.block_count": (U32, 13)}


def test_gemma3_with_its_fixed_pattern_and_local_rope(tmp_path: Path) -> None:
    config = read(tmp_path, gemma3())
    assert_same(config, GEMMA3)
    assert [layer for layer, kind in enumerate(config.layer_types) if kind == "full_attention"] == [5, 11]
    assert config.rope_local is not None
    assert (config.rope.theta, config.rope_local.theta) == (1e6, 1e4)


def test_gemma3_stretches_global_layers_only(tmp_path: Path) -> None:
    scaling = {"rope.scaling.type": (STRING, "linear"), "rope.scaling.factor": (F32, 8.0)}
    config = read(tmp_path, gemma3(scaling))
    assert_same(config, GEMMA3 | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})


def test_gemma3_27b_alone_scales_by_hidden_size(tmp_path: Path) -> None:
    changes = gemma3() | {"gemma3.block_count": (U32, 62)}
    assert_same(read(tmp_path, changes), GEMMA3 | {"num_hidden_layers": 62, "query_pre_attn_scalar": 8})


def test_gemma3_with_its_pattern_in_the_file(tmp_path: Path) -> None:
    config = read(tmp_path, gemma3({"attention.sliding_window_pattern": (ARRAY, (BOOL, [1, 0] * 6 + [1]))}))
    assert [kind == "sliding_attention" for kind in config.layer_types] == [True, False] * 6 + [True]
    with pytest.raises(ModelFileError, match="does not have 13 entries"):
        read(tmp_path, gemma3({"attention.sliding_window_pattern": (ARRAY, (BOOL, [1, 0]))}))


def test_a_llama_with_a_window_is_a_mistral(tmp_path: Path) -> None:
    changes = {"llama.attention.sliding_window": (U32, 64)}
    hf = {
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 64,
        "rms_norm_eps": 1e-5,
    }
    assert_same(read(tmp_path, changes, llama_tensors() | UNTIED), hf)


def test_a_window_of_zero_is_none(tmp_path: Path) -> None:
    config = read(tmp_path, {"llama.attention.sliding_window": (U32, 0)})
    assert (config.family, config.sliding_window) == ("llama", None)


def test_rope_frequencies_become_divisors(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"rope_freqs.weight": np.array([1, 1, 2.5, 32], np.float32)}
    assert read(tmp_path, tensors=tensors).rope.frequency_factors == (1.0, 1.0, 2.5, 32.0)


@pytest.mark.parametrize("factors", [[1, 1, 1], [1, 1, 1, math.nan], [1, 1, 1, 0], [1, 1, 1, math.inf]])
def test_rope_frequencies_that_make_no_sense_are_refused(tmp_path: Path, factors: list[float]) -> None:
    tensors = llama_tensors() | {"rope_freqs.weight": np.array(factors, np.float32)}
    with pytest.raises(ModelFileError, match=r"rope_freqs\.weight"):
        read(tmp_path, tensors=tensors)


def test_yarn(tmp_path: Path) -> None:
    changes = as_architecture(
        "qwen2",
        {
            "rope.scaling.type": (STRING, "yarn"),
            "rope.scaling.factor": (F32, 4.0),
            "rope.scaling.original_context_length": (U32, 64),
        },
    )
    config = read(tmp_path, changes, llama_tensors() | UNTIED)
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert_same(config, {"architectures": ["Qwen2ForCausalLM"], "rope_scaling": scaling})
    assert config.max_position == 256


def test_yarn_magnitude_comes_on_top_of_yarn_s_own(tmp_path: Path) -> None:
    changes = {
        "llama.rope.scaling.type": (STRING, "yarn"),
        "llama.rope.scaling.factor": (F32, 4.0),
        "llama.rope.scaling.attn_factor": (F32, 0.5),
    }
    factor = read(tmp_path, changes).rope.attention_factor
    assert factor == pytest.approx(0.5 * (0.1 * math.log(4) + 1))


def test_a_size_given_once_per_layer_counts_where_all_agree(tmp_path: Path) -> None:
    same = {"llama.feed_forward_length": (ARRAY, (I32, [64, 64]))}
    assert read(tmp_path, same).intermediate_size == 64
    with pytest.raises(ModelFileError, match="differs from layer to layer"):
        read(tmp_path, {"llama.attention.head_count_kv": (ARRAY, (I32, [2, 4]))})


def test_end_of_turn_and_of_message_end_an_answer_too(tmp_path: Path) -> None:
    changes = {"tokenizer.ggml.eot_token_id": (U32, 5), "tokenizer.ggml.eom_token_id": (U32, 3)}
    assert read(tmp_path, changes).eos_token_ids == (3, 5)


def test_the_dtype_is_that_of_most_matrices(tmp_path: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in llama_tensors().items() if array.ndim == 2}
    assert read(tmp_path).dtype == "float32"
    assert read(tmp_path, tensors=llama_tensors() | half).dtype == "float16"


def test_recommended_sampling_becomes_the_generation_config(tmp_path: Path) -> None:
    changes = {"general.sampling.temp": (F32, 0.5), "general.sampling.top_k": (I32, 20)}
    (tmp_path / "model.gguf").write_bytes(gguf_model(changes))
    assert gguf_generation_config(GGUFFile(tmp_path / "model.gguf")) == {"temperature": 0.5, "top_k": 20}


REFUSED: dict[str, tuple[Changes, str]] = {
    "no architecture": ({"general.architecture": None}, "None is not supported"),
    "an unknown architecture": (
        {"general.architecture": (STRING, "mamba")},
        "supported: llama, qwen2, qwen3",
    ),
    "an architecture that is a number": ({"general.architecture": (U32, 5)}, "5, not a text"),
    "two architectures": ({"general.architecture": (ARRAY, (U32, [1, 2]))}, "not a text"),
    "a list of experts": ({"llama.expert_count": (ARRAY, (U32, [1, 2]))}, r"llama\.expert_count is array"),
    "a list of parts": ({"split.count": (ARRAY, (U32, [1, 2]))}, r"split\.count is array"),
    "more context than any model's": ({"llama.context_length": (U32, 2**31)}, "from 1 to 16777216"),
    "a rope base of 1": ({"llama.rope.freq_base": (F32, 1.0)}, "is 1.0, not a number greater than 1"),
    "more columns than memory": (
        {"llama.attention.key_length": (U32, 2**25), "llama.attention.value_length": None},
        "4 attention heads of 33554432 are more",
    ),
    "experts": ({"llama.expert_count": (U32, 8)}, "mixture-of-experts"),
    "a part of a file": ({"split.count": (U32, 3)}, "one part of a split GGUF"),
    "no layers": ({"llama.block_count": (U32, 0)}, r"llama\.block_count is 0"),
    "absurdly many layers": ({"llama.block_count": (U32, 2**32 - 1)}, r"llama\.block_count"),
    "no width": ({"llama.embedding_length": None}, "embedding_length is missing"),
    "a width that is a text": ({"llama.embedding_length": (STRING, "x")}, "not a whole number"),
    "another width than the embeddings": ({"llama.embedding_length": (U32, 64)}, r"shape \(16, 32\)"),
    "heads that do not divide": ({"llama.attention.head_count": (U32, 5)}, "not a multiple of 5 heads"),
    "heads that cannot share": ({"llama.attention.head_count_kv": (U32, 3)}, "cannot share 3"),
    "negative heads": ({"llama.attention.head_count_kv": (I32, -2)}, "is -2"),
    "odd heads": ({"llama.attention.key_length": (U32, 7), "llama.rope.dimension_count": None}, "7 is odd"),
    "values unlike keys": ({"llama.attention.value_length": (U32, 4)}, "differs from the key length 8"),
    "more rotation than head": ({"llama.rope.dimension_count": (U32, 16)}, "does not fit heads of 8"),
    "an epsilon of NaN": ({"llama.attention.layer_norm_rms_epsilon": (F32, math.nan)}, "is nan"),
    "an infinite rope base": ({"llama.rope.freq_base": (F32, math.inf)}, "is inf"),
    "a negative rope base": ({"llama.rope.freq_base": (F32, -1.0)}, "not a positive finite number"),
    "unknown rope scaling": ({"llama.rope.scaling.type": (STRING, "longrope")}, "supported: none, linear"),
    "more tokens than embeddings": (
        {"tokenizer.ggml.tokens": (ARRAY, (STRING, ["x"] * 17))},
        "17 tokens, but only 16 embeddings",
    ),
    "a token id of text": ({"tokenizer.ggml.eos_token_id": (STRING, "</s>")}, "not a token id"),
}


def test_recommended_sampling_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf_model({"general.sampling.top_k": (ARRAY, (U32, [1, 2]))}))
    with pytest.raises(ModelFileError, match=r"general\.sampling\.top_k is array"):
        gguf_generation_config(GGUFFile(tmp_path / "model.gguf"))


@pytest.mark.parametrize("case", REFUSED)
def test_metadata_that_makes_no_sense_is_refused(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ModelFileError, match=message) as caught:
        read(tmp_path, changes)
    assert "\n" not in str(caught.value)


def test_missing_embeddings_are_named(tmp_path: Path) -> None:
    tensors = {"output_norm.weight": np.ones(32, np.float32)}
    with pytest.raises(ModelFileError, match=r"token_embd\.weight is missing"):
        read(tmp_path, tensors=tensors)
