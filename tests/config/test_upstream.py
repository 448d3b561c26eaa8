"""What vLLM's users type is implemented, answered, refused, or accepted with one warning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser
from ozone.config.keys import ENGINE_KEYS, KEYS
from ozone.config.neutral import NEUTRAL
from ozone.config.schema import OzoneConfig
from ozone.config.upstream import (
    ANSWERS,
    IGNORED_FLAGS,
    IGNORED_KEYS,
    REFUSED_FLAGS,
    REFUSED_KEYS,
    SHORT_FLAGS,
)
from ozone.errors import ConfigError

Parse = Callable[..., EngineArgs]
Resolved = Callable[..., OzoneConfig]

DOCS = Path(__file__).parents[2] / "docs"


def names(text: str) -> list[str]:
    return text.split()


# Names of vLLM's EngineArgs fields, checked against its source.
ENGINE_ARGS = names("""
model served_model_name tokenizer hf_config_path runner convert skip_tokenizer_init enable_prompt_embeds
tokenizer_mode trust_remote_code allowed_local_media_path allowed_media_domains download_dir
safetensors_load_strategy load_format config_format dtype kv_cache_dtype seed max_model_len
cudagraph_capture_sizes max_cudagraph_capture_size ir_op_priority distributed_executor_backend
pipeline_parallel_size master_addr master_port nnodes node_rank distributed_timeout_seconds numa_bind
numa_bind_nodes numa_bind_cpus tensor_parallel_size prefill_context_parallel_size
decode_context_parallel_size dcp_comm_backend dcp_kv_cache_interleave_size cp_kv_cache_interleave_size
data_parallel_size data_parallel_rank data_parallel_start_rank data_parallel_size_local data_parallel_address
data_parallel_rpc_port data_parallel_hybrid_lb data_parallel_external_lb data_parallel_backend
enable_expert_parallel enable_ep_weight_filter moe_backend all2all_backend enable_elastic_ep enable_dbo
ubatch_size dbo_decode_token_threshold dbo_prefill_token_threshold disable_nccl_for_dp_synchronization
eplb_config enable_eplb expert_placement_strategy max_parallel_loading_workers block_size
enable_prefix_caching prefix_caching_hash_algo disable_sliding_window disable_cascade_attn offload_backend
cpu_offload_gb cpu_offload_params offload_group_size offload_num_in_group offload_prefetch_step
offload_params gpu_memory_utilization kv_cache_memory_bytes max_num_batched_tokens max_num_partial_prefills
max_long_partial_prefills long_prefill_token_threshold max_num_seqs max_logprobs logprobs_mode
disable_log_stats aggregate_engine_logging revision code_revision hf_token hf_overrides tokenizer_revision
quantization quantization_config allow_deprecated_quantization enforce_eager disable_custom_all_reduce
language_model_only limit_mm_per_prompt enable_mm_embeds interleave_mm_strings media_io_kwargs
mm_processor_kwargs mm_processor_cache_gb mm_processor_cache_type mm_shm_cache_max_object_size_mb
mm_encoder_only mm_encoder_tp_mode mm_encoder_attn_backend mm_encoder_attn_dtype io_processor_plugin
renderer_num_workers skip_mm_profiling video_pruning_rate mm_tensor_ipc enable_lora max_loras max_lora_rank
default_mm_loras fully_sharded_loras max_cpu_loras lora_dtype lora_target_modules enable_tower_connector_lora
specialize_active_lora ray_workers_use_nsight num_gpu_blocks_override model_loader_extra_config
ignore_patterns enable_chunked_prefill disable_chunked_mm_input scheduler_reserve_full_isl
disable_hybrid_kv_cache_manager structured_outputs_config reasoning_parser reasoning_parser_plugin
speculative_config show_hidden_metrics_for_version otlp_traces_endpoint collect_detailed_traces
kv_cache_metrics kv_cache_metrics_sample cudagraph_metrics enable_layerwise_nvtx_tracing enable_mfu_metrics
enable_logging_iteration_details enable_mm_processor_stats scheduling_policy scheduler_cls pooler_config
compilation_config attention_config mamba_config kernel_config enable_flashinfer_autotune worker_cls
worker_extension_cls profiler_config kv_transfer_config kv_events_config ec_transfer_config reasoning_config
generation_config enable_sleep_mode override_generation_config model_impl override_attention_dtype
attention_backend calculate_kv_scales kv_cache_dtype_skip_layers mamba_cache_dtype mamba_ssm_cache_dtype
mamba_block_size mamba_cache_mode mamba_backend additional_config use_tqdm_on_load pt_load_map_location
logits_processors async_scheduling stream_interval kv_sharing_fast_prefill optimization_level performance_mode
kv_offloading_size kv_offloading_backend tokens_only weight_transfer_config fail_on_environ_validation
gdn_prefill_backend swap_space task rope_scaling rope_theta linear_backend
""")

COMPILATION_CONFIG = names("""
level mode debug_dump_path cache_dir compile_cache_save_format backend custom_ops ir_enable_torch_wrap
splitting_ops compile_mm_encoder cudagraph_mm_encoder encoder_cudagraph_token_budgets
encoder_cudagraph_max_vision_items_per_batch encoder_cudagraph_max_frames_per_batch compile_sizes
compile_ranges_endpoints inductor_compile_config inductor_passes cudagraph_mode cudagraph_num_of_warmups
cudagraph_capture_sizes cudagraph_copy_inputs cudagraph_specialize_lora use_inductor_graph_partition
max_cudagraph_capture_size dynamic_shapes_config fast_moe_cold_start
""")

PASS_CONFIG = names("""
fuse_norm_quant fuse_act_quant fuse_attn_quant eliminate_noops enable_sp fuse_gemm_comms fuse_allreduce_rms
fuse_minimax_qk_norm enable_qk_norm_rope_fusion fuse_rope_kvcache_cat_mla fuse_act_padding
fuse_mla_dual_rms_norm fuse_rope_kvcache fuse_qk_norm_rope_kvcache rope_kvcache_fusion_max_token_num
fi_allreduce_fusion_max_size_mb sp_min_token_num
""")

KERNEL_CONFIG = names("""
ir_op_priority enable_flashinfer_autotune moe_backend linear_backend enable_cutedsl_warmup enable_jit_warmup
enable_bf16x3_router_gemm
""")

IMPLEMENTED = {field.name for field in dataclasses.fields(EngineArgs)} - {"ignored"}
ALL_KEYS = (
    [f"compilation_config.{name}" for name in COMPILATION_CONFIG]
    + [f"compilation_config.pass_config.{name}" for name in PASS_CONFIG]
    + [f"kernel_config.{name}" for name in KERNEL_CONFIG]
)


@pytest.mark.parametrize("name", ENGINE_ARGS)
def test_every_argument_of_vllm_has_one_status(name: str) -> None:
    places = [name in place for place in (IMPLEMENTED, ANSWERS, REFUSED_FLAGS, IGNORED_FLAGS)]
    assert places.count(True) == 1


@pytest.mark.parametrize("key", ALL_KEYS)
def test_every_key_of_vllms_config_objects_has_one_status(key: str) -> None:
    assert [key in place for place in (KEYS, REFUSED_KEYS, IGNORED_KEYS)].count(True) == 1


def test_no_name_has_two_statuses() -> None:
    assert not IMPLEMENTED & (ANSWERS.keys() | REFUSED_FLAGS.keys() | IGNORED_FLAGS.keys())
    assert not KEYS.keys() & (REFUSED_KEYS.keys() | IGNORED_KEYS.keys())
    assert set(SHORT_FLAGS.values()) <= set(REFUSED_FLAGS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trust-remote-code", "--trust-remote-code: Ozone never runs code that comes with a model"),
        ("--trust_remote_code", "--trust-remote-code: Ozone never runs code"),
        ("--gpu-memory-utilization 0.9", "--kv-cache-memory-bytes, for example 2G"),
        ("--gpu_memory_utilization=0.9", "there is no GPU here"),
        ("--quantization-config {1}", "vLLM has --quantization-config; Ozone does not (yet): the checkpoint"),
        ("-pp 2", "vLLM has -pp; Ozone does not (yet)"),
        ("--enable-lora", "vLLM has --enable-lora; Ozone does not (yet): adapters are not built"),
        ("--enable-lora=true", "vLLM has --enable-lora; Ozone does not (yet)"),
        ("--no-enable-lora=false", "vLLM has --no-enable-lora; Ozone does not (yet)"),
        ("--pipeline-parallel-size", "vLLM has --pipeline-parallel-size; Ozone does not (yet)"),
        ("--pipeline-parallel-size=2", "vLLM has --pipeline-parallel-size; Ozone does not (yet)"),
        ("--hf-overrides {", "vLLM has --hf-overrides; Ozone does not (yet)"),
        (
            "-cc.use_inductor_graph_partition=1",
            "vLLM has -cc.use_inductor_graph_partition; Ozone does not (yet)",
        ),
        ("-cc.pass_config.enable_sp=1", "vLLM has -cc.pass_config.enable_sp; Ozone does not (yet)"),
        ("--kernel-config.moe_backend=x", "vLLM has --kernel-config.moe_backend; Ozone does not (yet)"),
        ("--kernel-config.ir_op_priority.rms_norm=x", "vLLM has --kernel-config.ir_op_priority.rms_norm"),
    ],
)
def test_what_ozone_has_not_is_said_in_one_line(
    parse: Parse, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(*words.split())
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("name", IGNORED_FLAGS)
def test_a_flag_without_effect_gives_one_warning(resolved: Resolved, name: str) -> None:
    flag = "--" + name.replace("_", "-")
    words = [flag, "4"] if IGNORED_FLAGS[name].takes_value else [flag]
    config = resolved(*words, *words)
    assert len(config.notices) == 1
    assert config.notices[0].startswith(f"{flag} is accepted without effect: ")
    assert all(setting.origin != "user" for setting in config.settings.values())


@pytest.mark.parametrize("name", IGNORED_FLAGS)
def test_an_argument_without_effect_gives_one_warning(
    resolved_kwargs: Callable[..., OzoneConfig], name: str
) -> None:
    config = resolved_kwargs(**{name: 4})
    assert len(config.notices) == 1
    assert name in config.notices[0]


@pytest.mark.parametrize("key", IGNORED_KEYS)
def test_a_key_without_effect_gives_one_warning(resolved: Resolved, key: str) -> None:
    flag = key.replace("compilation_config", "-cc").replace("kernel_config", "--kernel-config")
    config = resolved(f"{flag}=1", f"{flag}=2")
    assert len(config.notices) == 1
    assert flag in config.notices[0]


def test_whole_objects_without_effect_are_accepted(resolved: Resolved) -> None:
    config = resolved("-cc", '{"dynamic_shapes_config": {"type": "backed", "evaluate_guards": false}}')
    assert len(config.notices) == 1
    assert config.notices[0].startswith("-cc.dynamic_shapes_config is accepted without effect")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"trust_remote_code": True}, "trust_remote_code: Ozone never runs code"),
        ({"gpu_memory_utilization": 0.9}, "gpu_memory_utilization: there is no GPU here"),
        ({"device": "cuda"}, "vLLM has device; Ozone does not (yet)"),
        ({"compilation_config": {"level": 3}}, "vLLM has -cc.level; Ozone does not (yet): say -O0 to -O3"),
    ],
)
def test_what_ozone_has_not_in_python(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        EngineArgs.from_kwargs(**kwargs)
    assert message in str(error.value)


def test_arguments_that_are_switched_off_ask_for_nothing() -> None:
    args = EngineArgs.from_kwargs(trust_remote_code=False, quantization=None, enable_lora=False)
    assert args.user_settings() == ({}, [])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"pipeline_parallel_size": 1},
        {"load_format": "auto", "tokenizer_mode": "Auto", "config_format": "hf"},
        {"runner": "generate", "convert": "auto", "task": None},
        {"limit_mm_per_prompt": {}, "hf_overrides": {}, "logits_processors": [], "ignore_patterns": ()},
        {"device": "cpu"},
        {"device": "auto", "quantization": None, "data_parallel_size": 1, "data_parallel_rank": 0},
        {"compilation_config": {"use_inductor_graph_partition": False, "inductor_passes": {}}},
        {"compilation_config": {"pass_config": {"enable_sp": False}, "level": None}},
        {"kernel_config": {"moe_backend": "auto"}},
    ],
    ids=str,
)
def test_values_that_ask_for_nothing_are_let_through(kwargs: dict[str, object]) -> None:
    assert EngineArgs.from_kwargs(**kwargs).user_settings() == ({}, [])


@pytest.mark.parametrize(
    "words",
    [
        "--pipeline-parallel-size 1",
        "--pipeline_parallel_size=1",
        "-pp 1",
        "-pp=1",
        "--load-format auto --tokenizer-mode=auto",
        "--runner generate --device cpu",
        "--limit-mm-per-prompt {} --hf-overrides={}",
        "--quantization None",
        "--no-enable-lora --enable-lora=false --no-trust-remote-code",
        "-cc.use_inductor_graph_partition=False -cc.pass_config.enable_sp=false",
        "--kernel-config.moe_backend=auto",
    ],
)
def test_flags_that_ask_for_nothing_are_let_through(parse: Parse, words: str) -> None:
    settings, notices = parse(*words.split(), "-O1").user_settings()
    assert list(settings) == ["optimization_level"]
    assert notices == []


@pytest.mark.parametrize(
    "kwargs",
    [
        {"pipeline_parallel_size": 2},
        {"load_format": "dummy"},
        {"runner": "pooling"},
        {"limit_mm_per_prompt": {"image": 1}},
        {"enable_lora": True},
        {"data_parallel_size": 0},
        {"device": "cuda"},
        {"compilation_config": {"use_inductor_graph_partition": True}},
    ],
    ids=str,
)
def test_other_values_of_the_same_arguments_are_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Ozone does not"):
        EngineArgs.from_kwargs(**kwargs)


def test_only_what_is_refused_has_values_that_ask_for_nothing() -> None:
    assert NEUTRAL.keys() <= ANSWERS.keys() | REFUSED_FLAGS.keys() | REFUSED_KEYS.keys()
    assert all(word == word.lower() for words in NEUTRAL.values() for word in words)


def test_a_command_line_without_an_engine_knows_no_such_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ArgumentParser(prog="x").parse_args(["--pipeline-parallel-size", "1"])
    assert "there is no flag --pipeline-parallel-size" in capsys.readouterr().err


def sections(page: str) -> dict[str, str]:
    """The page's parts by their headings."""
    parts = page.split("\n## ")
    return {part.splitlines()[0]: part for part in parts[1:]}


def test_the_docs_list_every_name_under_its_status() -> None:
    page = sections((DOCS / "flags.md").read_text())
    flags = {name: "--" + name.replace("_", "-") for name in (*ANSWERS, *REFUSED_FLAGS, *IGNORED_FLAGS)}
    for key in ENGINE_KEYS.values():
        assert f"`{key.flag}`" in page["Flags of the engine"]
    for key in KEYS.keys() - ENGINE_KEYS.keys():
        assert f"`{KEYS[key].flag}`" in page["Config objects"]
    for name in ANSWERS:
        assert f"`{flags[name]}`" in page["Answered"]
    for name in (*IGNORED_FLAGS, *IGNORED_KEYS):
        assert f"`{flags.get(name, name)}`" in page["Accepted without effect"]
    for name in (*REFUSED_FLAGS, *REFUSED_KEYS):
        assert f"`{flags.get(name, name)}`" in page["Refused"]
    rows = [
        line.split("|")[1:3] for line in page["Values that ask for nothing"].splitlines() if line[:3] == "| `"
    ]
    shown = {(value.strip(), name.strip()) for value, names in rows for name in names.split(",")}
    for name, words in NEUTRAL.items():
        for word in words:
            assert (f"`{word}`", f"`{flags.get(name, name)}`") in shown


def test_the_docs_show_the_table_of_levels() -> None:
    from ozone.config.levels import TABLE

    page = (DOCS / "levels.md").read_text()
    for key in TABLE:
        assert f"`{KEYS[key].flag}`" in page
