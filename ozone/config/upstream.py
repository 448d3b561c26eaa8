"""What vLLM's users type that Ozone has not: accepted without effect, or refused.

Tables of names as data, by reason; `docs/flags.md` shows them. What is done with them: `vllm_answers.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Flags whose absence changes no answer: accepted, with one warning that says why they do nothing.
_ACCEPTED_FLAGS: Mapping[str, str] = {
    "there is no GPU here; --kv-cache-memory-bytes says how much memory the KV cache gets": (
        "gpu_memory_utilization device_memory_utilization"
    ),
    "no code that comes with a model is ever run": ("trust_remote_code code_revision"),
    "weights, KV cache and steps are in the CPU's memory already": (
        "cpu_offload_gb cpu_offload_params offload_backend offload_group_size offload_num_in_group "
        "offload_prefetch_step offload_params kv_offloading_size kv_offloading_backend "
        "mm_ipc_gpu_memory_gb device_ids enable_cumem_allocator override_neuron_config"
    ),
    "preempted requests are recomputed, not swapped": "swap_space",
    "weight files are memory-mapped, and read with --num-threads threads": (
        "load_format safetensors_load_strategy safetensors_prefetch_num_threads "
        "safetensors_prefetch_block_size max_parallel_loading_workers model_loader_extra_config "
        "ignore_patterns pt_load_map_location"
    ),
    "the checkpoint's own files say what is what": (
        "tokenizer_mode config_format allow_deprecated_quantization tokenizer_pool_size"
    ),
    "models have one implementation, Ozone's own": "model_impl",
    "progress is shown where there is a terminal": "use_tqdm_on_load",
    "only text is read; a request with anything else is refused": (
        "limit_mm_per_prompt media_io_kwargs mm_processor_kwargs mm_processor_cache_gb "
        "mm_processor_cache_type mm_hasher_algorithm mm_shm_cache_max_object_size_mb mm_encoder_tp_mode "
        "mm_encoder_attn_backend "
        "mm_encoder_attn_dtype mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_path "
        "mm_encoder_fp8_scale_save_margin mm_tensor_ipc mm_processor_device mm_device_do_normalize "
        "interleave_mm_strings skip_mm_profiling video_pruning_rate video_pruning_method "
        "disable_chunked_mm_input disable_mm_preprocessor_cache language_model_only allowed_media_domains "
        "allowed_local_media_path trust_request_mm_kwargs enable_mm_processor_stats "
        "enable_flash_late_interaction"
    ),
    "kernels are chosen by the platform and the autotuner": (
        "attention_backend attention_config linear_backend ir_op_priority monokernel "
        "sparse_indexer_topk_backend enable_bf16x3_router_gemm jit_monitor_mode jit_monitor_verbose"
    ),
    "no model here has such layers": (
        "disable_cascade_attn disable_hybrid_kv_cache_manager swa_bounded_replay mamba_config mamba_backend "
        "mamba_ssu_algorithm enable_mamba_cache_stochastic_rounding mamba_cache_philox_rounds "
        "mamba_cache_dtype mamba_ssm_cache_dtype mamba_block_size mamba_cache_mode "
        "enable_mamba_shared_prefix_checkpoint replayssm_buffer_len use_replayssm gdn_prefill_backend "
        "kda_prefill_backend kda_decode_backend moe_backend all2all_backend expert_placement_strategy"
    ),
    "one process runs the model": (
        "distributed_executor_backend distributed_timeout_seconds cpu_distributed_timeout_seconds "
        "master_addr master_port disable_custom_all_reduce disable_nccl_for_dp_synchronization "
        "enable_nccl_comm_suspend dp_sync_interval data_parallel_backend data_parallel_supervisor_port "
        "worker_use_ray engine_use_ray disable_frontend_multiprocessing disable_async_output_proc "
        "dp_supervisor_probe_interval_s dp_supervisor_probe_timeout_s dp_supervisor_probe_failure_threshold "
        "aggregate_engine_logging ray_workers_use_nsight enable_shm_tensor_arena renderer_num_workers "
        "dcp_comm_backend dcp_kv_cache_interleave_size cp_kv_cache_interleave_size dcp_q_replicate "
        "dbo_decode_token_threshold dbo_prefill_token_threshold enable_batch_sharded_sampling"
    ),
    "the engine plans each step itself; its sizes are --max-num-batched-tokens and --max-num-seqs": (
        "async_scheduling scheduler_reserve_full_isl long_prefill_token_threshold "
        "long_prefill_token_threshold_adaptive max_num_partial_prefills max_long_partial_prefills "
        "prefill_schedule_interval watermark scheduler_delay_factor num_scheduler_steps preemption_mode "
        "multi_step_stream_outputs use_v2_block_manager"
    ),
    "blocks are hashed and kept in one way": (
        "prefix_caching_hash_algo prefix_cache_retention_interval prefix_match_unit"
    ),
    "what is captured does not depend on the length": "max_seq_len_to_capture max_context_len_to_capture",
    "random numbers are the same on every machine, in their full precision": "use_fp64_gumbel",
    "the level decides: say -O0 to -O3": "performance_mode",
    "Ozone's own figures are at /metrics and /startup": (
        "kv_cache_metrics kv_cache_metrics_sample cudagraph_metrics "
        "enable_layerwise_nvtx_tracing enable_mfu_metrics enable_logging_iteration_details "
        "per_request_spec_decode_metrics show_hidden_metrics_for_version"
    ),
    "--enable-log-outputs logs an answer when it ends": "enable_log_deltas",
    "/load always counts requests": "enable_server_load_tracking",
    "/docs always works offline": "enable_offline_docs",
    "an error of the program is always logged with its traceback": "log_error_stack",
    "--max-request-bytes is the limit of a request": "h11_max_incomplete_event_size h11_max_header_count",
    "there is no endpoint of that kind": (
        "cohere_is_reasoning_model cohere_format anthropic_disabled_thinking_effort"
    ),
    "system_fingerprint names Ozone's version": "fingerprint_mode fingerprint_value",
}

# Of these flags, only such values are accepted; others ask for what Ozone has not.
ACCEPTED_VALUES: Mapping[str, str] = {
    "load_format": (
        "auto hf safetensors gguf mistral fastsafetensors instanttensor runai_streamer modelexpress"
    ),
    "model_impl": "auto vllm transformers",
}

_REFUSED_FLAGS: Mapping[str, str] = {
    "the checkpoint itself says how it is quantized": "quantization_config quantization_param_path",
    "one machine runs the whole model in one process": (
        "pipeline_parallel_size prefill_context_parallel_size decode_context_parallel_size nnodes node_rank "
        "enable_dbo ubatch_size worker_cls worker_extension_cls enable_fault_tolerance "
        "fault_tolerance_config enable_hc_sp headless"
    ),
    "start several servers, behind a proxy that shares requests among them": (
        "data_parallel_size data_parallel_rank data_parallel_start_rank data_parallel_size_local "
        "data_parallel_address data_parallel_rpc_port data_parallel_hybrid_lb data_parallel_external_lb "
        "data_parallel_multi_port_external_lb api_server_count"
    ),
    "mixtures of experts are not built": (
        "enable_expert_parallel enable_ep_weight_filter enable_elastic_ep elastic_ep_max_dp_size eplb_config "
        "enable_eplb num_redundant_experts eplb_window_size eplb_step_interval eplb_log_balancedness "
        "enable_return_routed_experts"
    ),
    "adapters are not built": (
        "enable_lora max_loras max_lora_rank default_mm_loras fully_sharded_loras max_cpu_loras lora_dtype "
        "lora_target_modules enable_tower_connector_lora specialize_active_lora lora_extra_vocab_size "
        "lora_modules enable_mixed_moe_lora_format enable_moe_shared_loras max_lora_cls_labels "
        "enable_lora_bias long_lora_scaling_factors enable_prompt_adapter max_prompt_adapters "
        "max_prompt_adapter_token qlora_adapter_name_or_path"
    ),
    "speculative decoding is not built": (
        "speculative_config spec_method spec_model spec_tokens num_lookahead_slots speculative_model "
        "num_speculative_tokens speculative_draft_tensor_parallel_size speculative_max_model_len "
        "speculative_disable_by_batch_size ngram_prompt_lookup_max ngram_prompt_lookup_min"
    ),
    "only text models are built": (
        "enable_prompt_embeds enable_mm_embeds mm_encoder_only io_processor_plugin engram_config "
        "diffusion_config"
    ),
    "models generate text; nothing else is built": (
        "runner convert task pooler_config override_pooler_config tokens_only skip_tokenizer_init "
        "aux_output_config return_sampling_mask enable_trace_replay"
    ),
    "the checkpoint's files are read as they stand": (
        "hf_config_path model_class_overrides rope_scaling rope_theta override_attention_dtype "
        "disable_sliding_window"
    ),
    "model and tokenizer have one --revision": "tokenizer_revision",
    "set the environment variable HF_TOKEN": "hf_token",
    "the device is this machine's CPU": "device",
    "say how large the KV cache is with --kv-cache-memory-bytes": "num_gpu_blocks_override",
    "KV caches stay in one process, of one type in all layers, with the checkpoint's scales": (
        "kv_transfer_config kv_events_config ec_transfer_config ec_manager_config calculate_kv_scales "
        "kv_cache_dtype_skip_layers kv_sharing_fast_prefill weight_transfer_config"
    ),
    "structured output, reasoning and tools are not built": (
        "structured_outputs_config reasoning_parser reasoning_parser_plugin reasoning_config "
        "reasoning_effort_map enable_reasoning guided_decoding_backend guided_decoding_disable_fallback "
        "guided_decoding_disable_any_whitespace guided_decoding_disable_additional_properties "
        "enable_auto_tool_choice tool_call_parser tool_parser_plugin tool_server tool_strict_level"
    ),
    "it is called --cudagraph-capture-sizes": "cuda_graph_sizes",
    "start the program under numactl": "numa_bind numa_bind_nodes numa_bind_cpus",
    "each step is planned by one policy, see --scheduling-policy": "scheduler_cls",
    "--max-waiting-requests bounds the queue": "max_num_queued_reqs max_num_queued_tokens",
    "--max-num-seqs bounds the requests in a step": "max_num_active_seqs",
    "--max-num-batched-tokens bounds the tokens in a step": "max_num_scheduled_tokens",
    "logits are changed by sampling parameters only": (
        "logits_processors logits_processor_pattern logprobs_mode"
    ),
    "there are /metrics and /startup": (
        "otlp_traces_endpoint collect_detailed_traces custom_histogram_buckets profiler_config "
        "enable_per_request_metrics"
    ),
    "a server that is not wanted is stopped": (
        "enable_sleep_mode sleep_mode_backend sleep_mode_offload_cudagraph sleep_preserve_parameter_names"
    ),
    "templates are rendered as they stand": "trust_request_chat_template response_role",
    "use --log-config-file and --log-level": "logging_config",
    "the server speaks HTTP": "grpc grpc_port",
    "a proxy in front of the server can do that": ("middleware sse_keep_alive_interval"),
    "there is no such endpoint": "enable_scale_out",
    "there is nothing of that kind to configure": (
        "additional_config fail_on_environ_validation watchdog_config watermark_config"
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
        "compilation_config.fast_moe_cold_start compilation_config.static_all_moe_layers"
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
}

_ACCEPTED_KEYS: Mapping[str, str] = {
    "programs are saved in one format": "compilation_config.compile_cache_save_format",
    "inputs are always copied into static buffers": "compilation_config.cudagraph_copy_inputs",
    "the model is traced once for any number of tokens": "compilation_config.dynamic_shapes_config",
    "ops are called as they are": "compilation_config.ir_enable_torch_wrap",
    "kernels are built ahead of time": "kernel_config.enable_cutedsl_warmup kernel_config.enable_jit_warmup",
    "kernels are chosen by the platform and the autotuner": (
        "kernel_config.ir_op_priority kernel_config.linear_backend kernel_config.linear_backend_per_quant "
        "kernel_config.moe_backend kernel_config.enable_bf16x3_router_gemm kernel_config.monokernel "
        "kernel_config.sparse_indexer_topk_backend kernel_config.enable_rocm_segmented_attn_autotune"
    ),
    "no model here replays decoder layers apart": (
        "compilation_config.cudagraph_decoder_replay compilation_config.decoder_replay_trim_threshold "
        "compilation_config.decoder_replay_cudagraph_capture_sizes"
    ),
}


def _by_name(table: Mapping[str, str]) -> dict[str, str]:
    return {name: reason for reason, names in table.items() for name in names.split()}


# Flags by keyword argument; config keys by full name, a key standing for all keys below it.
ACCEPTED_FLAGS: dict[str, str] = _by_name(_ACCEPTED_FLAGS)
REFUSED_FLAGS: dict[str, str] = _by_name(_REFUSED_FLAGS)
ACCEPTED_KEYS: dict[str, str] = _by_name(_ACCEPTED_KEYS)
REFUSED_KEYS: dict[str, str] = _by_name(_REFUSED_KEYS)


def accepted(spelled: str, reason: str) -> str:
    """The warning about something that changes nothing."""
    return f"{spelled} is accepted without effect: {reason}"


def refusal(spelled: str, reason: str) -> str:
    """The message for something that vLLM has and Ozone has not."""
    return f"vLLM has {spelled}; Ozone does not (yet): {reason}"


def nearest_flag(flag: str, known: Iterable[str]) -> str:
    """`"; did you mean --X?"` for the known flag that is spelled most like `flag`, or `"; see --help"`.

    Dashes before a name and its case do not count, and what follows a dot is kept.
    """
    import difflib  # only needed where something is wrong

    name, dot, path = flag.partition(".")
    name = name.lstrip("-").lower()
    by_name = {other.lstrip("-").lower(): other for other in known}
    matches = [other for other in by_name if other == name]
    matches = matches or [other for other in by_name if other.startswith(name) and len(name) > 2]
    matches = matches or difflib.get_close_matches(name, by_name, n=1, cutoff=0.65)
    matches = matches or [other for other in by_name if name in other and len(name) > 3]
    if not matches:
        return "; see --help"
    return f"; did you mean {by_name[matches[0]]}{dot if path else ''}{path}?"


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`"; did you mean X?"` for the known name that is nearest to `name`, or `otherwise`."""
    import difflib  # only needed where something is wrong

    names = list(known)
    matches = [other for other in names if other.startswith(name)]
    matches = matches or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    matches = matches or [other for other in names if name in other or other in name]
    return f"; did you mean {matches[0]}?" if matches else otherwise
