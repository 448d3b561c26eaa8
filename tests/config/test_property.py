"""Whatever the user sets: either an error, or every value that the user set stands unchanged."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ozone.config.args import EngineArgs
from ozone.config.custom_ops import CUSTOM_OPS, all_enabled
from ozone.config.keys import COMPILATION, KERNEL, KEYS
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.resolve import resolve_settings
from ozone.config.schema import CompilationMode, CUDAGraphMode, OzoneConfig, Setting
from ozone.errors import ConfigError

SWITCHES = [
    key for key in KEYS if ".pass_config." in key and key.split(".")[-1].startswith(("fuse", "en", "el"))
]
SIZES = st.lists(st.integers(1, 5000), max_size=4)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "optimization_level": st.integers(0, 3),
    "model.dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
    "model.max_model_len": st.integers(1, 9000),
    "cache.block_size": st.sampled_from([16, 32, 64, 128, 256]),
    "cache.kv_cache_memory_bytes": st.integers(1, 10**8),
    "scheduler.max_num_batched_tokens": st.integers(1, 10000),
    "scheduler.max_num_seqs": st.integers(1, 4096),
    "scheduler.enable_chunked_prefill": st.booleans(),
    "parallel.tensor_parallel_size": st.integers(1, 4),
    COMPILATION + "mode": st.sampled_from(CompilationMode),
    COMPILATION + "cudagraph_mode": st.sampled_from(CUDAGraphMode),
    COMPILATION + "custom_ops": st.one_of(
        st.sampled_from([["all"], ["none"], []]),
        st.lists(st.sampled_from([f"+{op}" for op in CUSTOM_OPS]), unique=True),
        st.lists(st.sampled_from([f"-{op}" for op in CUSTOM_OPS]), unique=True).map(
            lambda ops: ["all", *ops]
        ),
    ),
    COMPILATION + "splitting_ops": st.sampled_from([[], ["attention"]]),
    COMPILATION + "compile_sizes": SIZES,
    COMPILATION + "compile_ranges_endpoints": SIZES,
    COMPILATION + "cudagraph_capture_sizes": SIZES,
    COMPILATION + "max_cudagraph_capture_size": st.integers(1, 600),
    COMPILATION + "pass_config.rope_kvcache_fusion_max_token_num": st.integers(1, 5000),
    COMPILATION + "pass_config.fi_allreduce_fusion_max_size_mb": st.floats(0.0001, 100),
    KERNEL + "enable_flashinfer_autotune": st.booleans(),
    **dict.fromkeys(SWITCHES, st.booleans()),
}


def arguments(chosen: dict[str, Any]) -> EngineArgs:
    kwargs: dict[str, Any] = {"compilation_config": {}, "kernel_config": {}}
    for key, value in chosen.items():
        if key.startswith(COMPILATION):
            kwargs["compilation_config"][key.removeprefix(COMPILATION)] = value
        elif key.startswith(KERNEL):
            kwargs["kernel_config"][key.removeprefix(KERNEL)] = value
        else:
            kwargs[key.rsplit(".", 1)[-1]] = value
    return EngineArgs.from_kwargs(**kwargs)


def check_consistent(config: OzoneConfig) -> None:
    """What holds in every resolved config, whoever set what."""
    compilation = config.compilation
    pieces = {CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL_AND_PIECEWISE}
    if compilation.cudagraph_mode in pieces:
        assert compilation.mode == CompilationMode.VLLM_COMPILE
        assert compilation.splitting_ops
    elif compilation.cudagraph_mode != CUDAGraphMode.NONE and compilation.mode == CompilationMode.NONE:
        assert all_enabled(compilation.custom_ops, compiled=False)
    if any(config.settings[key].value for key in SWITCHES):
        assert compilation.mode == CompilationMode.VLLM_COMPILE
    assert config.scheduler.max_num_batched_tokens >= config.scheduler.max_num_seqs
    if not config.scheduler.enable_chunked_prefill:
        assert config.scheduler.max_num_batched_tokens >= config.model.max_model_len


@given(st.fixed_dictionaries({}, optional=VALUES), st.booleans())
@settings(max_examples=400, deadline=None)
def test_an_error_or_every_user_value_unchanged(
    machine: PlatformFacts, small_model: ModelConfig, chosen: dict[str, Any], with_model: bool
) -> None:
    try:
        config = resolve_settings(arguments(chosen), small_model if with_model else None, machine)
    except ConfigError:
        return
    for key, value in chosen.items():
        setting = config.settings[key]
        assert setting.origin == "user"
        assert setting.value == (tuple(value) if isinstance(value, list) else value)
    for key, setting in config.settings.items():
        assert (setting.origin == "user") == (key in chosen)
    check_consistent(config)


@given(st.sampled_from(sorted(VALUES)), st.data())
@settings(max_examples=200, deadline=None)
def test_one_user_value_alone_is_an_error_only_where_the_machine_or_model_is_too_small(
    machine: PlatformFacts, small_model: ModelConfig, key: str, data: st.DataObject
) -> None:
    chosen = {key: data.draw(VALUES[key])}
    if key in ("model.max_model_len", "cache.kv_cache_memory_bytes"):
        return
    config = resolve_settings(arguments(chosen), small_model, machine)
    check_consistent(config)


def test_the_property_covers_every_setting_that_another_may_touch() -> None:
    untouched = {
        "backend",
        "inductor_compile_config",
        "cache_dir",
        "debug_dump_path",
        "cudagraph_num_of_warmups",
    }
    names = {key for key in KEYS if key.startswith(COMPILATION)} - set(VALUES)
    assert names == {COMPILATION + name for name in untouched}


def test_the_property_can_fail(machine: PlatformFacts) -> None:
    config = resolve_settings(arguments({"optimization_level": 0}), None, machine)
    broken = config.settings | {SWITCHES[0]: Setting(True, "user", "")}
    with pytest.raises(AssertionError):
        check_consistent(dataclasses.replace(config, settings=broken))
