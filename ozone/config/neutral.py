"""Values of vLLM's options that ask for nothing here: vLLM's own defaults, and what equals them.

The defaults of flags are in `vllm_options.py`; those of config keys, and what equals a default, are here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ozone.config.values import from_json, show

_NEUTRAL: Mapping[str, str] = {
    "false": (
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
    "true": (
        "compilation_config.use_inductor compilation_config.use_cudagraph "
        "compilation_config.cudagraph_decoder_replay"
    ),
    "1": "data_parallel_size_local api_server_count mm_processor_cache_gb",
    "0": "data_parallel_rank data_parallel_start_rank kv_offloading_size video_pruning_rate",
    "auto": "device guided_decoding_backend kernel_config.moe_backend kernel_config.linear_backend",
    "{}": (
        "mm_processor_kwargs default_mm_loras reasoning_effort_map rope_scaling "
        "compilation_config.inductor_passes"
    ),
    "[]": (
        "ignore_patterns logits_processors lora_modules allowed_media_domains lora_target_modules "
        "collect_detailed_traces numa_bind_nodes numa_bind_cpus"
    ),
    "none": "convert",
    "generate": "runner task",
    "hf": "config_format tokenizer_mode",
    "vllm": "model_impl",
    "cpu": "device mm_processor_device",
    "main": "tokenizer_revision code_revision",
}


def _by_name(table: Mapping[str, str]) -> dict[str, frozenset[str]]:
    values: dict[str, set[str]] = {}
    for value, names in table.items():
        for name in names.split():
            values.setdefault(name, set()).add(value)
    return {name: frozenset(words) for name, words in values.items()}


# Words that ask for nothing, beside vLLM's defaults of flags, by keyword argument or full key; in lower case.
NEUTRAL: dict[str, frozenset[str]] = _by_name(_NEUTRAL)


_BOOLEANS = {"1": "true", "yes": "true", "0": "false", "no": "false"}


def asks_for_nothing(name: str, value: object) -> bool:
    """Whether the argument, flag or key `name` of vLLM's may have `value`, since that changes nothing."""
    from ozone.config.vllm_options import OPTIONS  # only needed for what Ozone has not

    option = OPTIONS.get(name)
    default = "false" if option is None else option.default
    if value is None or (value is False and default != "true"):
        return True
    word = _canonical(show(value))
    words = {_canonical(default), *NEUTRAL.get(name, ())}
    if words & {"true", "false"}:
        word = _BOOLEANS.get(word, word)
    return word in ("none", "null", "") or word in words


def _canonical(word: str) -> str:
    """One spelling for equal JSON, equal numbers, and words in any case."""
    word = word.strip().lower()
    try:
        return json.dumps(from_json(word)) if word[:1] in "{[" else f"{float(word):g}"
    except ValueError:
        return word
