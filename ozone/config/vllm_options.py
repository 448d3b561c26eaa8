"""The options of `vllm serve` as data: what each is called, what follows it, and vLLM's default.

What becomes of them here is in `upstream.py` (reasons) and `vllm_answers.py` (what is done). This module is
imported only where a command line or a call has a name that Ozone does not know.
"""

from __future__ import annotations

from typing import NamedTuple

from ozone.config.switches import readings

VERSION = "0.33.0"

# Kinds of switches: with a `--no-` form, and without.
SWITCHES = ("switch", "flag")


class Option(NamedTuple):
    """One option of vLLM's.

    Attributes:
        shape: what follows the name: nothing (`switch`, `flag`), an `int`, a `size` (an integer with a unit),
            a `float`, `text`, a `json` object or list (which dotted names set too), several `words`, or
            `optional` text.
        default: vLLM's default as it would be typed; "-" where there is none.
        short: its short name, or empty.
    """

    shape: str
    default: str
    short: str = ""


# Every option of `vllm serve` of this version: name, shape, default, short name.
_OPTIONS = """
additional_config json {}
aggregate_engine_logging flag -
all2all_backend text allgather_reducescatter
allow_credentials switch false
allow_deprecated_quantization switch false
allowed_headers json ["*"]
allowed_local_media_path text ""
allowed_media_domains words -
allowed_methods json ["*"]
allowed_origins json []
anthropic_disabled_thinking_effort text auto
api_key words -
api_server_count int - -asc
async_scheduling switch -
attention_backend text -
attention_config json {} -ac
aux_output_config json {}
block_size int -
chat_template text -
chat_template_content_format text auto
code_revision text -
cohere_format text cmd4
cohere_is_reasoning_model switch true
collect_detailed_traces words -
compilation_config json {} -cc
config text -
config_format text auto
convert text auto
cp_kv_cache_interleave_size int -
cpu_distributed_timeout_seconds int -
cpu_offload_gb float 0
cpu_offload_params words []
cudagraph_capture_sizes words -
cudagraph_metrics switch false
custom_histogram_buckets json -
data_parallel_address text - -dpa
data_parallel_backend text mp -dpb
data_parallel_external_lb switch false -dpe
data_parallel_hybrid_lb switch false -dph
data_parallel_multi_port_external_lb flag false -dpm
data_parallel_rank int - -dpn
data_parallel_rpc_port int - -dpp
data_parallel_size int 1 -dp
data_parallel_size_local int - -dpl
data_parallel_start_rank int - -dpr
data_parallel_supervisor_port int 9256
dbo_decode_token_threshold int 32
dbo_prefill_token_threshold int 512
dcp_comm_backend text -
dcp_kv_cache_interleave_size int 1
dcp_q_replicate switch -
decode_context_parallel_size int 1 -dcp
default_chat_template_kwargs json -
default_mm_loras json -
device_ids text -
device_memory_utilization float 0.92
diffusion_config json - -dc
disable_access_log_for_endpoints text -
disable_cascade_attn switch -
disable_chunked_mm_input switch false
disable_custom_all_reduce switch false
disable_fastapi_docs switch false
disable_hybrid_kv_cache_manager switch -
disable_log_stats flag -
disable_nccl_for_dp_synchronization switch -
disable_sliding_window switch false
disable_uvicorn_access_log switch false
distributed_executor_backend text -
distributed_timeout_seconds int -
download_dir text -
dp_supervisor_probe_failure_threshold int 3
dp_supervisor_probe_interval_s float 5.0
dp_supervisor_probe_timeout_s float 5.0
dp_sync_interval int 16
dtype text auto
ec_manager_config json {}
ec_transfer_config json -
elastic_ep_max_dp_size int -
enable_auto_tool_choice switch false
enable_batch_sharded_sampling switch -
enable_chunked_prefill switch -
enable_cumem_allocator switch false
enable_dbo switch false
enable_elastic_ep switch false
enable_ep_weight_filter switch false
enable_eplb switch false
enable_expert_parallel switch false -ep
enable_fault_tolerance switch false
enable_flash_late_interaction switch true
enable_flashinfer_autotune switch -
enable_force_include_usage switch false
enable_hc_sp switch false
enable_layerwise_nvtx_tracing switch false
enable_log_deltas switch true
enable_log_outputs switch false
enable_log_requests switch false
enable_logging_iteration_details switch false
enable_lora switch -
enable_mamba_cache_stochastic_rounding switch false
enable_mamba_shared_prefix_checkpoint switch false
enable_mfu_metrics switch false
enable_mixed_moe_lora_format switch false
enable_mm_embeds switch false
enable_moe_shared_loras switch false
enable_nccl_comm_suspend switch false
enable_offline_docs switch false
enable_per_request_metrics switch false
enable_prefix_caching switch -
enable_prompt_embeds switch false
enable_prompt_tokens_details switch false
enable_request_id_headers switch false
enable_return_routed_experts switch false
enable_scale_out switch false
enable_server_load_tracking switch false
enable_shm_tensor_arena switch false
enable_sleep_mode switch false
enable_ssl_refresh switch false
enable_tokenizer_info_endpoint switch false
enable_tower_connector_lora switch false
enable_trace_replay switch false
enforce_eager switch false
engram_config json -
eplb_config json {}
exclude_tools_when_tool_choice_none switch false
expert_placement_strategy text linear
fail_on_environ_validation switch false
fault_tolerance_config json {}
fingerprint_mode text full
fingerprint_value text -
fully_sharded_loras switch false
gdn_prefill_backend text -
generation_config text auto
gpu_memory_utilization float 0.92
grpc flag false
grpc_port int -
h11_max_header_count int 256
h11_max_incomplete_event_size int 4194304
headless flag false
help flag - -h
hf_config_path text -
hf_overrides json {}
hf_token optional -
host text -
ignore_patterns words ["original/**/*"]
interleave_mm_strings switch false
io_processor_plugin text -
ir_op_priority json {}
jit_monitor_mode text warn
jit_monitor_verbose switch false
kda_decode_backend text -
kda_prefill_backend text -
kernel_config json {}
kv_cache_dtype text auto
kv_cache_dtype_skip_layers words []
kv_cache_memory_bytes size -
kv_cache_metrics switch false
kv_cache_metrics_sample float 0.01
kv_events_config json -
kv_offloading_backend text native
kv_offloading_size float -
kv_sharing_fast_prefill switch false
kv_transfer_config json -
language_model_only switch false
limit_mm_per_prompt json {}
linear_backend text auto
load_format text auto
log_config_file text -
log_error_stack switch false
log_level text -
logging_config json {}
logits_processors words -
logprobs_mode text raw_logprobs
long_prefill_token_threshold int 0
long_prefill_token_threshold_adaptive switch false
lora_dtype text auto
lora_modules words -
lora_target_modules words -
mamba_backend text triton
mamba_block_size int -
mamba_cache_dtype text auto
mamba_cache_mode text -
mamba_cache_philox_rounds int 0
mamba_ssm_cache_dtype text auto
mamba_ssu_algorithm text -
master_addr text 127.0.0.1
master_port int 29501
max_cpu_loras int -
max_cudagraph_capture_size int -
max_log_len int -
max_logprobs int 20
max_lora_cls_labels int -
max_lora_rank int 16
max_loras int 1
max_model_len size -
max_num_active_seqs int -
max_num_batched_tokens size -
max_num_queued_reqs int -
max_num_queued_tokens size -
max_num_scheduled_tokens size -
max_num_seqs int -
max_parallel_loading_workers int -
media_io_kwargs json {}
middleware text []
mm_device_do_normalize switch -
mm_encoder_attn_backend text -
mm_encoder_attn_dtype text -
mm_encoder_fp8_scale_path text -
mm_encoder_fp8_scale_save_margin float 1.5
mm_encoder_fp8_scale_save_path text -
mm_encoder_only switch false
mm_encoder_tp_mode text weights
mm_hasher_algorithm text blake3
mm_ipc_gpu_memory_gb float 0
mm_processor_cache_gb float 4
mm_processor_cache_type text lru
mm_processor_device text auto
mm_processor_kwargs json -
mm_shm_cache_max_object_size_mb int 128
mm_tensor_ipc text direct_rpc
model text Qwen/Qwen3-0.6B
model_class_overrides json {}
model_impl text auto
model_loader_extra_config json {}
moe_backend text auto
monokernel switch false
nnodes int 1 -n
node_rank int 0 -r
num_gpu_blocks_override int -
numa_bind switch false
numa_bind_cpus words -
numa_bind_nodes words -
offload_backend text auto
offload_group_size int 0
offload_num_in_group int 1
offload_params words []
offload_prefetch_step int 1
optimization_level int 2
otlp_traces_endpoint text -
override_generation_config json {}
per_request_spec_decode_metrics text none
performance_mode text balanced
pipeline_parallel_size int 1 -pp
pooler_config json -
port int 8000
prefill_context_parallel_size int 1 -pcp
prefill_schedule_interval int 1
prefix_cache_retention_interval int 0
prefix_caching_hash_algo text sha256
prefix_match_unit int -
profiler_config json {}
pt_load_map_location text cpu
quantization text - -q
quantization_config json -
ray_workers_use_nsight switch false
reasoning_config json -
reasoning_effort_map json -
reasoning_parser text ""
reasoning_parser_plugin text ""
renderer_num_workers int 1
replayssm_buffer_len int 16
response_role text assistant
return_sampling_mask switch false
return_tokens_as_token_ids switch false
revision text -
root_path text -
runner text auto
safetensors_load_strategy text -
safetensors_prefetch_block_size size 16777216
safetensors_prefetch_num_threads int 8
scheduler_cls text -
scheduler_reserve_full_isl switch true
scheduling_policy text fcfs
seed int 0
served_model_name words -
show_hidden_metrics_for_version text -
shutdown_timeout int 0
skip_mm_profiling switch false
skip_tokenizer_init switch false
sleep_mode_backend text cumem
sleep_mode_offload_cudagraph switch false
sleep_preserve_parameter_names words []
sparse_indexer_topk_backend text auto
spec_method text -
spec_model text -
spec_tokens int -
specialize_active_lora switch false
speculative_config json - -sc
sse_keep_alive_interval int 0
ssl_ca_certs text -
ssl_cert_reqs int 0
ssl_certfile text -
ssl_ciphers text -
ssl_keyfile text -
stream_interval int 1
structured_outputs_config json {}
swa_bounded_replay switch true
tensor_parallel_size int 1 -tp
tokenizer text -
tokenizer_mode text auto
tokenizer_revision text -
tokens_only switch false
tool_call_parser text -
tool_parser_plugin text ""
tool_server text -
tool_strict_level text -
trust_remote_code switch false
trust_request_chat_template switch false
trust_request_mm_kwargs switch false
ubatch_size int 0
uds text -
use_fp64_gumbel switch false
use_replayssm switch false
use_tqdm_on_load switch true
uvicorn_log_level text info
video_pruning_method text evs
video_pruning_rate float -
watchdog_config json {}
watermark float 0.0
watermark_config json -
weight_transfer_config json -
worker_cls text auto
worker_extension_cls text ""
"""

# Options of earlier versions, which old command lines still have.
_OLDER = """
calculate_kv_scales switch false
cuda_graph_sizes words -
device text auto
disable_async_output_proc switch false
disable_frontend_multiprocessing switch false
disable_mm_preprocessor_cache switch false
enable_bf16x3_router_gemm switch false
enable_lora_bias switch false
enable_mm_processor_stats switch false
enable_prompt_adapter switch false
enable_reasoning switch false
engine_use_ray switch false
eplb_log_balancedness switch false
eplb_step_interval int -
eplb_window_size int -
guided_decoding_backend text auto
guided_decoding_disable_additional_properties switch false
guided_decoding_disable_any_whitespace switch false
guided_decoding_disable_fallback switch false
logits_processor_pattern text -
long_lora_scaling_factors text -
lora_extra_vocab_size int -
mamba_config json -
max_context_len_to_capture int -
max_long_partial_prefills int 1
max_num_partial_prefills int 1
max_prompt_adapter_token int 0
max_prompt_adapters int 1
max_seq_len_to_capture int -
multi_step_stream_outputs switch true
ngram_prompt_lookup_max int -
ngram_prompt_lookup_min int -
num_lookahead_slots int 0
num_redundant_experts int 0
num_scheduler_steps int 1
num_speculative_tokens int 0
override_attention_dtype text -
override_neuron_config json -
override_pooler_config json -
preemption_mode text recompute
qlora_adapter_name_or_path text -
quantization_param_path text -
rope_scaling json -
rope_theta float -
scheduler_delay_factor float 0
speculative_disable_by_batch_size int -
speculative_draft_tensor_parallel_size int -
speculative_max_model_len int -
speculative_model text -
swap_space float 4
task text auto
tokenizer_pool_size int 0
use_v2_block_manager switch true
worker_use_ray switch false
"""


def _table(lines: str) -> dict[str, Option]:
    rows = (line.split() for line in lines.strip().splitlines())
    return {name: Option(*rest) for name, *rest in rows}


# By keyword argument. `SERVE` are those of `VERSION`; `OPTIONS` has those of earlier versions too.
SERVE: dict[str, Option] = _table(_OPTIONS)
OPTIONS: dict[str, Option] = SERVE | _table(_OLDER)
SHORT: dict[str, str] = {option.short: name for name, option in OPTIONS.items() if option.short}


def negative_names(name: str) -> tuple[str, ...]:
    """The names that switch `name` off in vLLM: `no_enable_x`, and `disable_x` for `enable_x`."""
    if OPTIONS[name].shape != "switch":
        return ()
    opposites = (name.replace(one, other, 1) for one, other in _OPPOSITES if name.startswith(one))
    return ("no_" + name, *opposites)


_OPPOSITES = (("enable_", "disable_"), ("disable_", "enable_"))


def find(flag: str) -> tuple[str, bool] | None:
    """The option that `flag` names, and False where it switches it off; None where vLLM has no such option.

    What stands after a dot, as in `--attention-config.backend`, says nothing about which option it is.
    """
    flag = flag.partition(".")[0]
    if not flag.startswith("--"):
        return (SHORT[flag], True) if flag in SHORT else None
    for reading, on in readings(flag):
        name = reading.removeprefix("--").replace("-", "_")
        if name in OPTIONS and (reading == flag or OPTIONS[name].shape in SWITCHES):
            return name, on
    return None


def long_names() -> list[str]:
    """Every long option of `vllm serve` as a command line has it, with the names that switch off."""
    names = [*SERVE, *(other for name in SERVE for other in negative_names(name))]
    return ["--" + name.replace("_", "-") for name in names]
