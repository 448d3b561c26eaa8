"""Sizes that depend on each other: context length, KV cache, tokens and requests of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from ozone.config.engine_settings import kv_bytes_per_token, step_bytes, weight_bytes
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.schema import OzoneConfig
from ozone.errors import ConfigError

Resolved = Callable[..., OzoneConfig]
GIB = 1024**3

MAX_LEN = "model.max_model_len"
KV = "cache.kv_cache_memory_bytes"


def test_the_cost_of_a_token(small_model: ModelConfig) -> None:
    assert kv_bytes_per_token(small_model, "bfloat16") == 256
    assert kv_bytes_per_token(small_model, "float32") == 512
    assert kv_bytes_per_token(small_model, "fp8") == 128
    assert kv_bytes_per_token(small_model, "int8") == 128 + 2 * 4 * 4  # a scale for each head and layer


def test_heads_are_padded_in_the_cache(small_model: ModelConfig) -> None:
    odd = dataclasses.replace(small_model, head_dim=20)
    assert kv_bytes_per_token(odd, "bfloat16") == 2 * kv_bytes_per_token(small_model, "bfloat16")


def test_a_smaller_type_makes_room_for_longer_contexts(resolved: Resolved, small_model: ModelConfig) -> None:
    words = ("--kv-cache-memory-bytes=100000", "--kv-cache-dtype=fp8")
    assert resolved(*words, model=small_model).model.max_model_len == 100000 // (16 * 128) * 16


def test_the_models_own_length_is_the_default(resolved: Resolved, small_model: ModelConfig) -> None:
    config = resolved(model=small_model)
    assert config.model.max_model_len == 8192
    assert config.settings[MAX_LEN].origin == "model"
    assert config.notices == ()


def test_a_length_beyond_the_models_is_an_error_that_names_both(
    resolved: Resolved, small_model: ModelConfig
) -> None:
    with pytest.raises(ConfigError, match=r"--max-model-len 8193 .* max_position is 8192"):
        resolved("--max-model-len=8193", model=small_model)


def test_a_small_cache_shortens_the_default_length_with_a_notice(
    resolved: Resolved, small_model: ModelConfig
) -> None:
    config = resolved("--kv-cache-memory-bytes=100000", model=small_model)
    assert config.model.max_model_len == 100000 // (16 * 256) * 16 == 384
    assert config.settings[MAX_LEN].origin == f"required by {KV}"
    assert len(config.notices) == 1
    assert "384" in config.notices[0]
    assert "8192" in config.notices[0]


def test_little_free_memory_shortens_the_default_length_too(
    resolved: Resolved, small_model: ModelConfig, machine: PlatformFacts
) -> None:
    weights = weight_bytes(small_model, "bfloat16")
    for words, tokens, seqs in (((), 512, 64), (("--max-num-batched-tokens=256",), 256, 64)):
        step = tokens * (3 * 64 + 4 * 32) * 2 + seqs * 100 * 4
        assert step_bytes(small_model, "bfloat16", tokens, seqs) == step
        crowded = dataclasses.replace(machine, available_bytes=900_000 + weights + step)
        config = resolved(*words, model=small_model, platform=crowded)
        assert config.cache.kv_cache_memory_bytes == 360_000
        assert config.model.max_model_len == 360_000 // 4096 * 16


def test_the_weights_are_about_as_large_as_their_matrices(small_model: ModelConfig) -> None:
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32
    parameters = 100 * 32 + 4 * (attention + 3 * 32 * 64)
    assert weight_bytes(small_model, "bfloat16") == 2 * parameters
    assert weight_bytes(small_model, "float32") == 4 * parameters
    untied = dataclasses.replace(small_model, tie_word_embeddings=False)
    assert weight_bytes(untied, "bfloat16") == 2 * (parameters + 100 * 32)


def test_a_model_that_fills_the_memory_still_leaves_a_cache(
    resolved: Resolved, small_model: ModelConfig, machine: PlatformFacts
) -> None:
    wide = dataclasses.replace(small_model, intermediate_size=6400)
    full = dataclasses.replace(machine, available_bytes=weight_bytes(wide, "bfloat16"))
    config = resolved(model=wide, platform=full)
    assert config.cache.kv_cache_memory_bytes == int(0.4 * (full.available_bytes // 10))


def test_a_cache_above_all_memory_is_an_error(resolved: Resolved, small_model: ModelConfig) -> None:
    for model in (None, small_model):
        with pytest.raises(
            ConfigError, match=r"--kv-cache-memory-bytes \d+ is more than this machine's memory"
        ):
            resolved("--kv-cache-memory-bytes=900G", model=model)


def test_a_cache_above_the_free_memory_is_noticed(resolved: Resolved, machine: PlatformFacts) -> None:
    config = resolved("--kv-cache-memory-bytes=9G")
    assert config.cache.kv_cache_memory_bytes == 9 * GIB
    assert len(config.notices) == 1
    assert "of memory that are free now" in config.notices[0]
    assert resolved("--kv-cache-memory-bytes=8G").notices == ()
    unknown = dataclasses.replace(machine, memory_bytes=0, available_bytes=0)
    assert resolved("--kv-cache-memory-bytes=9G", platform=unknown).notices == ()


def test_a_cache_that_holds_no_block_is_an_error(resolved: Resolved, small_model: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="one block of this model takes 4096 bytes"):
        resolved("--kv-cache-memory-bytes=4095", model=small_model)


def test_a_length_that_the_users_cache_cannot_hold_is_a_contradiction(
    resolved: Resolved, small_model: ModelConfig
) -> None:
    with pytest.raises(ConfigError, match=r"--kv-cache-memory-bytes 4096 and --max-model-len 17 contradict"):
        resolved("--kv-cache-memory-bytes=4096", "--max-model-len=17", model=small_model)
    assert resolved("--kv-cache-memory-bytes=4096", "--max-model-len=16", model=small_model)


def test_the_users_length_raises_the_default_cache(
    resolved: Resolved, small_model: ModelConfig, machine: PlatformFacts
) -> None:
    crowded = dataclasses.replace(machine, available_bytes=1_000_000)
    config = resolved("--max-model-len=3000", model=small_model, platform=crowded)
    assert config.cache.kv_cache_memory_bytes == 188 * 4096  # 188 blocks hold 3000 tokens
    assert config.settings[KV].origin == f"required by {MAX_LEN}"


def test_a_length_beyond_all_memory_is_an_error(
    resolved: Resolved, small_model: ModelConfig, machine: PlatformFacts
) -> None:
    crowded = dataclasses.replace(machine, available_bytes=1_000_000)
    with pytest.raises(ConfigError, match=r"--max-model-len 8000 takes 2048000 bytes .* 1000000 bytes"):
        resolved("--max-model-len=8000", model=small_model, platform=crowded)


def test_the_default_cache_is_bounded_by_memory_and_by_use(
    resolved: Resolved, small_model: ModelConfig, machine: PlatformFacts
) -> None:
    large = dataclasses.replace(small_model, num_layers=400)
    assert resolved(model=small_model).cache.kv_cache_memory_bytes == 64 * 8192 * 256
    left = 8 * GIB - weight_bytes(large, "bfloat16") - step_bytes(large, "bfloat16", 512, 64)
    assert resolved(model=large).cache.kv_cache_memory_bytes == int(0.4 * left)
    roomy = dataclasses.replace(machine, available_bytes=100 * GIB)
    assert resolved(model=large, platform=roomy).cache.kv_cache_memory_bytes == 4 * GIB
    assert resolved(
        "--max-model-len=16", "--max-num-seqs=2", model=small_model
    ).cache.kv_cache_memory_bytes == (2 * 4096)


def test_wider_types_hold_fewer_tokens(resolved: Resolved, small_model: ModelConfig) -> None:
    words = ("--kv-cache-memory-bytes=100000", "--dtype=float32", "--block-size=32")
    assert resolved(*words, model=small_model).model.max_model_len == 100000 // (32 * 512) * 32


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_checkpoints_own_type_is_the_default(
    resolved: Resolved, small_model: ModelConfig, dtype: str
) -> None:
    model = dataclasses.replace(small_model, dtype=dtype)
    for words in ((), ("--dtype=auto",)):
        config = resolved(*words, model=model)
        assert config.model.dtype == dtype
        assert config.settings["model.dtype"].origin == "model"


def test_a_named_quantization_has_to_be_the_checkpoints_own(
    resolved: Resolved, small_model: ModelConfig
) -> None:
    quantized = dataclasses.replace(small_model, quantization={"quant_method": "awq"})
    for words in ((), ("-q", "awq"), ("--quantization=awq_marlin",), ("--quantization=None",)):
        assert resolved(*words, model=quantized).model.quantization == "awq"
    assert resolved(model=small_model).model.quantization is None
    assert resolved("--quantization=fp8").model.quantization == "fp8"
    with pytest.raises(
        ConfigError, match="--quantization fp8: the model is quantized as awq; leave the flag away"
    ):
        resolved("--quantization=fp8", model=quantized)
    with pytest.raises(ConfigError, match="--quantization fp8: the model is not quantized; ozone quantize"):
        resolved("--quantization=fp8", model=small_model)
    with pytest.raises(ConfigError, match="one of compressed-tensors, fp8, gptq, awq, gguf"):
        resolved("--quantization=bitsandbytes")


def test_without_a_model_nothing_depends_on_it(resolved: Resolved) -> None:
    config = resolved()
    assert config.model.model == "smollm2"
    assert config.model.dtype == "bfloat16"
    assert config.model.max_model_len == 0


@pytest.mark.parametrize(
    ("family", "stored", "words", "dtype", "warned"),
    [
        ("gemma3", "float16", "", "bfloat16", False),
        ("gemma3", "float16", "--dtype auto", "bfloat16", False),
        ("gemma3", "float32", "", "float32", False),
        ("gemma3", "bfloat16", "--dtype half", "float16", True),
        ("llama", "float16", "", "float16", False),
        ("llama", "float16", "--dtype float16", "float16", False),
    ],
)
def test_a_family_that_overflows_float16_is_computed_in_bfloat16(
    resolved: Resolved,
    small_model: ModelConfig,
    family: str,
    stored: str,
    words: str,
    dtype: str,
    warned: bool,
) -> None:
    config = resolved(*words.split(), model=dataclasses.replace(small_model, family=family, dtype=stored))
    assert config.model.dtype == dtype
    assert any("leave its range" in notice for notice in config.notices) == warned


@pytest.mark.parametrize(("threads", "warned"), [(6, False), (7, True), (300, True)])
def test_more_threads_than_cores_are_warned_of(resolved: Resolved, threads: int, warned: bool) -> None:
    notices = " ".join(resolved("--num-threads", str(threads)).notices)
    assert (f"--num-threads {threads} is more than the 6 cores" in notices) == warned


def test_threads_follow_the_platform(resolved: Resolved) -> None:
    config = resolved()
    assert config.parallel.num_threads == 6
    assert config.settings["parallel.num_threads"].origin == "platform"


def test_ordinary_defaults(resolved: Resolved) -> None:
    config = resolved("some/model")
    assert config.model.served_model_name == ("some/model",)
    assert (config.cache.block_size, config.cache.enable_prefix_caching) == (16, True)
    assert config.scheduler.max_num_batched_tokens == 512
    assert config.scheduler.max_num_seqs == 64
    assert config.scheduler.enable_chunked_prefill
    assert config.scheduler.scheduling_policy == "fcfs"
    assert (config.model.seed, config.model.max_logprobs) == (0, 20)


def test_few_tokens_in_a_step_lower_the_default_number_of_requests(resolved: Resolved) -> None:
    config = resolved("--max-num-batched-tokens=10")
    assert config.scheduler.max_num_seqs == 10
    assert config.settings["scheduler.max_num_seqs"].origin == "required by scheduler.max_num_batched_tokens"


def test_many_requests_raise_the_default_number_of_tokens(resolved: Resolved) -> None:
    config = resolved("--max-num-seqs=3000")
    assert config.scheduler.max_num_batched_tokens == 3000
    assert config.settings["scheduler.max_num_batched_tokens"].origin == "required by scheduler.max_num_seqs"


def test_without_chunked_prefill_a_step_holds_the_longest_prompt(
    resolved: Resolved, small_model: ModelConfig
) -> None:
    config = resolved("--no-enable-chunked-prefill", model=small_model)
    assert config.scheduler.max_num_batched_tokens == 8192
    origin = config.settings["scheduler.max_num_batched_tokens"].origin
    assert origin == "required by scheduler.enable_chunked_prefill"
    short = resolved("--no-enable-chunked-prefill", "--max-model-len=100", model=small_model)
    assert short.scheduler.max_num_batched_tokens == 512
    many = resolved("--no-enable-chunked-prefill", "--max-num-seqs=4000", model=small_model)
    assert many.scheduler.max_num_batched_tokens == 8192


@pytest.mark.parametrize(
    ("words", "length"), [((), "max_model_len 8192"), (("--max-model-len=2000",), "--max-model-len 2000")]
)
def test_without_chunked_prefill_a_smaller_step_is_an_error(
    resolved: Resolved, small_model: ModelConfig, words: tuple[str, ...], length: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resolved("--no-enable-chunked-prefill", "--max-num-batched-tokens=1000", *words, model=small_model)
    assert "--max-num-batched-tokens 1000" in str(error.value)
    assert "--no-enable-chunked-prefill" in str(error.value)
    assert length in str(error.value)
