"""What vLLM's users type that Ozone has not: answered, refused, or accepted without effect.

Tables of names as data, by reason; `docs/flags.md` shows them, and a test keeps the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Ignored(NamedTuple):
    """A flag that is accepted without effect. `takes_value`: one word comes after it."""

    reason: str
    takes_value: bool


# Flags that deserve an answer of their own, by keyword argument.
ANSWERS: dict[str, str] = {
    "trust_remote_code": "Ozone never runs code that comes with a model; leave the flag away",
    "gpu_memory_utilization": "there is no GPU here; say how much memory the KV cache gets with "
    "--kv-cache-memory-bytes, for example 2G",
}

IGNORED_FLAGS: dict[str, Ignored] = {
    "swap_space": Ignored("preempted requests are recomputed, not swapped", True),
    "cpu_offload_gb": Ignored("everything is in the CPU's memory", True),
    "disable_log_stats": Ignored("statistics are served at /metrics, not logged", False),
    "disable_custom_all_reduce": Ignored("one process reduces nothing", False),
    "disable_cascade_attn": Ignored("there is no cascade attention to disable", False),
    "disable_hybrid_kv_cache_manager": Ignored("all layers share one kind of block", False),
    "distributed_executor_backend": Ignored("one process runs the model", True),
    "max_parallel_loading_workers": Ignored("weights are loaded with --num-threads threads", True),
    "max_seq_len_to_capture": Ignored("what is captured does not depend on the length", True),
    "prefix_caching_hash_algo": Ignored("there is one way of hashing blocks", True),
    "safetensors_load_strategy": Ignored("weight files are memory-mapped", True),
    "use_tqdm_on_load": Ignored("progress is shown where there is a terminal", False),
    "async_scheduling": Ignored("the engine decides how steps overlap", False),
}

_REFUSED_FLAGS: Mapping[str, str] = {
    "the checkpoint itself says how it is quantized": (
        "quantization_config allow_deprecated_quantization quantization_param_path"
    ),
    "one machine runs the whole model": (
        "pipeline_parallel_size prefill_context_parallel_size decode_context_parallel_size dcp_comm_backend "
        "dcp_kv_cache_interleave_size cp_kv_cache_interleave_size master_addr master_port nnodes node_rank "
        "distributed_timeout_seconds enable_dbo ubatch_size dbo_decode_token_threshold "
        "dbo_prefill_token_threshold worker_cls worker_extension_cls ray_workers_use_nsight "
        "enable_fault_tolerance fault_tolerance_config"
    ),
    "start several servers instead": (
        "data_parallel_size data_parallel_rank data_parallel_start_rank data_parallel_size_local "
        "data_parallel_address data_parallel_rpc_port data_parallel_hybrid_lb data_parallel_external_lb "
        "data_parallel_backend disable_nccl_for_dp_synchronization aggregate_engine_logging "
        "api_server_count"
    ),
    "mixtures of experts are not built": (
        "enable_expert_parallel enable_ep_weight_filter moe_backend all2all_backend enable_elastic_ep "
        "eplb_config enable_eplb expert_placement_strategy num_redundant_experts eplb_window_size "
        "eplb_step_interval eplb_log_balancedness enable_return_routed_experts"
    ),
    "adapters are not built": (
        "enable_lora max_loras max_lora_rank default_mm_loras fully_sharded_loras max_cpu_loras lora_dtype "
        "lora_target_modules enable_tower_connector_lora specialize_active_lora lora_extra_vocab_size "
        "lora_modules"
    ),
    "speculative decoding is not built": (
        "speculative_config spec_method spec_model spec_tokens num_lookahead_slots speculative_model "
        "num_speculative_tokens"
    ),
    "only text models are built": (
        "allowed_local_media_path allowed_media_domains enable_prompt_embeds language_model_only "
        "limit_mm_per_prompt enable_mm_embeds interleave_mm_strings media_io_kwargs mm_processor_kwargs "
        "mm_processor_cache_gb mm_processor_cache_type mm_shm_cache_max_object_size_mb mm_encoder_only "
        "mm_encoder_tp_mode mm_encoder_attn_backend mm_encoder_attn_dtype mm_tensor_ipc skip_mm_profiling "
        "video_pruning_rate disable_chunked_mm_input disable_mm_preprocessor_cache io_processor_plugin "
        "mamba_cache_dtype mamba_ssm_cache_dtype mamba_block_size mamba_cache_mode mamba_backend "
        "mamba_config gdn_prefill_backend"
    ),
    "models generate text; nothing else is built": (
        "runner convert task pooler_config override_pooler_config tokens_only skip_tokenizer_init"
    ),
    "the checkpoint's files are read as they stand": (
        "hf_config_path hf_overrides config_format load_format model_loader_extra_config ignore_patterns "
        "pt_load_map_location code_revision rope_scaling rope_theta model_impl override_attention_dtype "
        "disable_sliding_window tokenizer_mode tokenizer_pool_size"
    ),
    "model and tokenizer have one --revision": "tokenizer_revision",
    "set the environment variable HF_TOKEN": "hf_token",
    "the device is this machine's CPU": "device",
    "the size of the KV cache is set with --kv-cache-memory-bytes": (
        "num_gpu_blocks_override kv_offloading_size kv_offloading_backend offload_backend cpu_offload_params "
        "offload_group_size offload_num_in_group offload_prefetch_step offload_params"
    ),
    "KV caches stay in one process, of one type in all layers, with the checkpoint's scales": (
        "kv_transfer_config kv_events_config ec_transfer_config calculate_kv_scales "
        "kv_cache_dtype_skip_layers kv_sharing_fast_prefill weight_transfer_config"
    ),
    "structured output, reasoning and tools are not built": (
        "structured_outputs_config reasoning_parser reasoning_parser_plugin reasoning_config "
        "guided_decoding_backend guided_decoding_disable_fallback "
        "guided_decoding_disable_any_whitespace guided_decoding_disable_additional_properties "
        "enable_auto_tool_choice tool_call_parser tool_parser_plugin tool_server "
        "exclude_tools_when_tool_choice_none"
    ),
    "the level decides: say -O0 to -O3": "performance_mode",
    "it is called --cudagraph-capture-sizes": "cuda_graph_sizes",
    "kernels are chosen by the platform and the autotuner": (
        "attention_backend attention_config linear_backend ir_op_priority enable_bf16x3_router_gemm "
        "numa_bind numa_bind_nodes numa_bind_cpus"
    ),
    "each step is planned by one policy, see --scheduling-policy": (
        "max_num_partial_prefills max_long_partial_prefills long_prefill_token_threshold scheduler_cls "
        "scheduler_delay_factor num_scheduler_steps scheduler_reserve_full_isl preemption_mode "
        "stream_interval"
    ),
    "logits are changed by sampling parameters only": (
        "logits_processors logits_processor_pattern logprobs_mode"
    ),
    "use --generation-config, or send the values with the request": "override_generation_config",
    "there are /metrics and /startup": (
        "show_hidden_metrics_for_version otlp_traces_endpoint collect_detailed_traces kv_cache_metrics "
        "kv_cache_metrics_sample cudagraph_metrics enable_layerwise_nvtx_tracing enable_mfu_metrics "
        "enable_logging_iteration_details enable_mm_processor_stats profiler_config"
    ),
    "a server that is not wanted is stopped": "enable_sleep_mode",
    "templates are rendered as they stand": (
        "chat_template_content_format trust_request_chat_template default_chat_template_kwargs response_role"
    ),
    "there is nothing of that kind to configure": (
        "additional_config renderer_num_workers fail_on_environ_validation middleware"
    ),
}

_REFUSED_KEYS: Mapping[str, str] = {
    "say -O0 to -O3, or -cc.mode": "compilation_config.level",
    "it is called compile_ranges_endpoints": "compilation_config.compile_ranges_split_points",
    "it is called cudagraph_mode": "compilation_config.use_cudagraph compilation_config.full_cuda_graph",
    "it is called mode and backend": "compilation_config.use_inductor",
    "graphs are split by splitting_ops": "compilation_config.use_inductor_graph_partition",
    "a pass is a file of its own with a switch in pass_config": "compilation_config.inductor_passes",
    "only text models are built": (
        "compilation_config.compile_mm_encoder compilation_config.cudagraph_mm_encoder "
        "compilation_config.encoder_cudagraph_token_budgets "
        "compilation_config.encoder_cudagraph_max_vision_items_per_batch "
        "compilation_config.encoder_cudagraph_max_frames_per_batch"
    ),
    "adapters are not built": "compilation_config.cudagraph_specialize_lora",
    "mixtures of experts are not built": (
        "compilation_config.fast_moe_cold_start compilation_config.static_all_moe_layers "
        "kernel_config.moe_backend kernel_config.enable_bf16x3_router_gemm"
    ),
    "it is called cache_dir": "compilation_config.local_cache_dir",
    "one process runs the model": (
        "compilation_config.pass_config.enable_sp compilation_config.pass_config.sp_min_token_num "
        "compilation_config.pass_config.fuse_gemm_comms "
        "compilation_config.pass_config.enable_sequence_parallelism "
        "compilation_config.pass_config.enable_async_tp"
    ),
    "no model here has such layers": (
        "compilation_config.pass_config.fuse_minimax_qk_norm "
        "compilation_config.pass_config.fuse_mla_dual_rms_norm "
        "compilation_config.pass_config.fuse_rope_kvcache_cat_mla"
    ),
    "it is called fuse_norm_quant and fuse_act_quant": "compilation_config.pass_config.enable_fusion",
    "it is called fuse_attn_quant": "compilation_config.pass_config.enable_attn_fusion",
    "it is called eliminate_noops": "compilation_config.pass_config.enable_noop",
    "it is called fuse_allreduce_rms": "compilation_config.pass_config.enable_fi_allreduce_fusion",
    "kernels are chosen by the platform and the autotuner": (
        "kernel_config.ir_op_priority kernel_config.linear_backend kernel_config.linear_backend_per_quant"
    ),
}

_IGNORED_KEYS: Mapping[str, str] = {
    "programs are saved in one format": "compilation_config.compile_cache_save_format",
    "inputs are always copied into static buffers": "compilation_config.cudagraph_copy_inputs",
    "the model is traced once for any number of tokens": "compilation_config.dynamic_shapes_config",
    "ops are called as they are": "compilation_config.ir_enable_torch_wrap",
    "kernels are built ahead of time": "kernel_config.enable_cutedsl_warmup kernel_config.enable_jit_warmup",
}


def _by_name(table: Mapping[str, str]) -> dict[str, str]:
    return {name: reason for reason, names in table.items() for name in names.split()}


# Flags by keyword argument; config keys by full name, a key standing for all keys below it.
REFUSED_FLAGS: dict[str, str] = _by_name(_REFUSED_FLAGS)
REFUSED_KEYS: dict[str, str] = _by_name(_REFUSED_KEYS)
IGNORED_KEYS: dict[str, str] = _by_name(_IGNORED_KEYS)

# vLLM's short flags, and what they are short for.
SHORT_FLAGS: dict[str, str] = {
    "-pp": "pipeline_parallel_size",
    "-pcp": "prefill_context_parallel_size",
    "-dcp": "decode_context_parallel_size",
    "-dp": "data_parallel_size",
    "-dpn": "data_parallel_rank",
    "-dpr": "data_parallel_start_rank",
    "-dpl": "data_parallel_size_local",
    "-dpa": "data_parallel_address",
    "-dpp": "data_parallel_rpc_port",
    "-dpb": "data_parallel_backend",
    "-ep": "enable_expert_parallel",
    "-ac": "attention_config",
    "-asc": "api_server_count",
}


def refusal(spelled: str, reason: str) -> str:
    """The message for something that vLLM has and Ozone has not."""
    return f"vLLM has {spelled}; Ozone does not (yet): {reason}"


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`"; did you mean X?"` for the known name that is nearest to `name`, or `otherwise`."""
    import difflib  # only needed where something is wrong

    names = list(known)
    matches = [other for other in names if other.startswith(name)]
    matches = matches or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    matches = matches or [other for other in names if name in other or other in name]
    return f"; did you mean {matches[0]}?" if matches else otherwise
