"""Values of refused flags and keys that ask for nothing: vLLM's defaults, and what equals them here.

Tables of names as data, by value; `docs/flags.md` shows them, and a test keeps the two together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ozone.config.values import show

_NEUTRAL: Mapping[str, str] = {
    "false": (
        "trust_remote_code allow_deprecated_quantization enable_dbo ray_workers_use_nsight "
        "enable_fault_tolerance data_parallel_hybrid_lb data_parallel_external_lb "
        "disable_nccl_for_dp_synchronization aggregate_engine_logging enable_expert_parallel "
        "enable_ep_weight_filter enable_elastic_ep enable_eplb eplb_log_balancedness "
        "enable_return_routed_experts enable_lora fully_sharded_loras enable_tower_connector_lora "
        "specialize_active_lora enable_prompt_embeds language_model_only enable_mm_embeds "
        "interleave_mm_strings mm_encoder_only skip_mm_profiling disable_chunked_mm_input "
        "disable_mm_preprocessor_cache tokens_only skip_tokenizer_init disable_sliding_window "
        "calculate_kv_scales kv_sharing_fast_prefill guided_decoding_disable_fallback "
        "guided_decoding_disable_any_whitespace guided_decoding_disable_additional_properties "
        "enable_auto_tool_choice exclude_tools_when_tool_choice_none numa_bind enable_bf16x3_router_gemm "
        "kv_cache_metrics cudagraph_metrics enable_layerwise_nvtx_tracing enable_mfu_metrics "
        "enable_logging_iteration_details enable_mm_processor_stats enable_sleep_mode "
        "trust_request_chat_template fail_on_environ_validation "
        "compilation_config.use_cudagraph compilation_config.full_cuda_graph "
        "compilation_config.use_inductor_graph_partition compilation_config.compile_mm_encoder "
        "compilation_config.cudagraph_mm_encoder compilation_config.cudagraph_specialize_lora "
        "compilation_config.fast_moe_cold_start compilation_config.pass_config.enable_sp "
        "compilation_config.pass_config.fuse_gemm_comms "
        "compilation_config.pass_config.enable_sequence_parallelism "
        "compilation_config.pass_config.enable_async_tp "
        "compilation_config.pass_config.fuse_minimax_qk_norm "
        "compilation_config.pass_config.fuse_mla_dual_rms_norm "
        "compilation_config.pass_config.fuse_rope_kvcache_cat_mla kernel_config.enable_bf16x3_router_gemm"
    ),
    "1": (
        "pipeline_parallel_size prefill_context_parallel_size decode_context_parallel_size "
        "dcp_kv_cache_interleave_size cp_kv_cache_interleave_size nnodes data_parallel_size "
        "data_parallel_size_local api_server_count renderer_num_workers max_loras num_scheduler_steps "
        "max_num_partial_prefills max_long_partial_prefills stream_interval"
    ),
    "0": (
        "node_rank data_parallel_rank data_parallel_start_rank ubatch_size num_redundant_experts "
        "long_prefill_token_threshold scheduler_delay_factor tokenizer_pool_size num_lookahead_slots "
        "num_speculative_tokens kv_offloading_size offload_group_size video_pruning_rate"
    ),
    "auto": (
        "load_format tokenizer_mode config_format runner convert task model_impl device worker_cls "
        "lora_dtype moe_backend linear_backend offload_backend guided_decoding_backend "
        "chat_template_content_format mamba_cache_dtype mamba_ssm_cache_dtype "
        "kernel_config.moe_backend kernel_config.linear_backend"
    ),
    "{}": (
        "limit_mm_per_prompt hf_overrides model_loader_extra_config media_io_kwargs mm_processor_kwargs "
        "rope_scaling default_mm_loras additional_config override_generation_config "
        "default_chat_template_kwargs compilation_config.inductor_passes"
    ),
    "[]": (
        "ignore_patterns logits_processors lora_modules allowed_media_domains kv_cache_dtype_skip_layers "
        "middleware"
    ),
    "generate": "runner task",
    "hf": "config_format tokenizer_mode",
    "cpu": "device pt_load_map_location",
    "main": "tokenizer_revision code_revision",
    "mp": "data_parallel_backend",
    "raw_logprobs": "logprobs_mode",
    "balanced": "performance_mode",
    "recompute": "preemption_mode",
    "assistant": "response_role",
}


def _by_name(table: Mapping[str, str]) -> dict[str, frozenset[str]]:
    values: dict[str, set[str]] = {}
    for value, names in table.items():
        for name in names.split():
            values.setdefault(name, set()).add(value)
    return {name: frozenset(words) for name, words in values.items()}


# Words that ask for nothing, by keyword argument or full key; in lower case.
NEUTRAL: dict[str, frozenset[str]] = _by_name(_NEUTRAL)


def asks_for_nothing(name: str, value: object) -> bool:
    """Whether the refused argument or key `name` may have `value`, since that changes nothing."""
    if value is None or value is False:
        return True
    word = show(value).strip().lower()
    if word[:1] in ("{", "["):
        word = _compact(word)
    return word in ("none", "null") or word in NEUTRAL.get(name, ())


def is_switch(name: str) -> bool:
    """Whether the refused flag of `name` takes no value."""
    return NEUTRAL.get(name) == frozenset({"false"})


def _compact(word: str) -> str:
    try:
        return json.dumps(json.loads(word))
    except ValueError:
        return word
