"""The resolved configuration: frozen, complete, and every value knows who set it and why.

Only `resolve` (in `resolve.py`) makes an `OzoneConfig`. Nothing else in the code asks for the level.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Dtype = Literal["float32", "float16", "bfloat16"]


class CompilationMode(enum.IntEnum):
    """`-cc.mode`."""

    NONE = 0
    STOCK_TORCH_COMPILE = 1
    DYNAMO_TRACE_ONCE = 2
    VLLM_COMPILE = 3


class CUDAGraphMode(enum.Enum):
    """`-cc.cudagraph_mode`: what replays for (mixed batches, uniform decode)."""

    NONE = "NONE"
    PIECEWISE = "PIECEWISE"
    FULL = "FULL"
    FULL_DECODE_ONLY = "FULL_DECODE_ONLY"
    FULL_AND_PIECEWISE = "FULL_AND_PIECEWISE"


@dataclass(frozen=True)
class Setting:
    """One resolved value. `origin`: ``user``, ``-O2``, ``platform``, ``model``, ``default`` or
    ``required by KEY``; `reason`: one sentence."""

    value: Any
    origin: str
    reason: str


@dataclass(frozen=True)
class PassConfig:
    """`-cc.pass_config`: which fusions run."""

    fuse_norm_quant: bool = False
    fuse_act_quant: bool = False
    fuse_act_padding: bool = False
    fuse_rope_kvcache: bool = False
    fuse_allreduce_rms: bool = False
    fuse_add_rms_norm: bool = False
    enable_qk_norm_rope_fusion: bool = False
    fuse_qk_norm_rope_kvcache: bool = False
    fuse_attn_quant: bool = False
    eliminate_noops: bool = True
    rope_kvcache_fusion_max_token_num: int | None = None
    fi_allreduce_fusion_max_size_mb: float | None = None


@dataclass(frozen=True)
class CompilationConfig:
    """`-cc`: compilation and graphs."""

    mode: CompilationMode = CompilationMode.NONE
    custom_ops: tuple[str, ...] = ("none",)
    cudagraph_mode: CUDAGraphMode = CUDAGraphMode.NONE
    pass_config: PassConfig = field(default_factory=PassConfig)
    backend: str = "inductor"
    splitting_ops: tuple[str, ...] = ()
    compile_sizes: tuple[int, ...] = ()
    compile_ranges_endpoints: tuple[int, ...] = ()
    cudagraph_capture_sizes: tuple[int, ...] = ()
    max_cudagraph_capture_size: int | None = None
    cudagraph_num_of_warmups: int = 0
    inductor_compile_config: Mapping[str, Any] = field(default_factory=dict)
    cache_dir: str = ""
    debug_dump_path: str | None = None


@dataclass(frozen=True)
class KernelConfig:
    """`--kernel-config`."""

    enable_flashinfer_autotune: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """Which model, read how."""

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    download_dir: str | None = None
    served_model_name: tuple[str, ...] = ()
    dtype: Dtype = "bfloat16"
    quantization: str | None = None
    seed: int = 0
    max_model_len: int = 0
    generation_config: str = "auto"
    override_generation_config: Mapping[str, Any] = field(default_factory=dict)
    hf_overrides: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    max_logprobs: int = 20


@dataclass(frozen=True)
class CacheConfig:
    """The paged KV cache. `kv_cache_memory_bytes` is the size of the whole cache."""

    block_size: int = 16
    kv_cache_memory_bytes: int = 0
    enable_prefix_caching: bool = True
    kv_cache_dtype: str = "auto"


@dataclass(frozen=True)
class SchedulerConfig:
    """What one step may hold and who goes first."""

    max_num_batched_tokens: int = 512
    max_num_seqs: int = 64
    enable_chunked_prefill: bool = True
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    max_waiting_requests: int = 1024


@dataclass(frozen=True)
class ParallelConfig:
    """Threads and, later, processes."""

    num_threads: int = 1
    tensor_parallel_size: int = 1


@dataclass(frozen=True)
class OzoneConfig:
    """Everything that decides how a run executes. `settings` maps ``"section.key"`` to its `Setting`;
    `notices` are the lines to log once, for example about values that were lowered."""

    optimization_level: int
    model: ModelOptions
    cache: CacheConfig
    scheduler: SchedulerConfig
    parallel: ParallelConfig
    compilation: CompilationConfig
    kernel: KernelConfig
    settings: Mapping[str, Setting] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
