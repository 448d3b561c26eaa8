"""Config objects for Python callers, under the names that vLLM's users know. A field left at None is not set.

They only carry what the user wants; the resolved classes of the same names live in `schema.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ozone.config.schema import CompilationMode, CUDAGraphMode


@dataclass
class PassConfig:
    """Which fusions run; see `docs/levels.md`."""

    fuse_norm_quant: bool | None = None
    fuse_act_quant: bool | None = None
    fuse_act_padding: bool | None = None
    fuse_rope_kvcache: bool | None = None
    fuse_allreduce_rms: bool | None = None
    fuse_add_rms_norm: bool | None = None
    enable_qk_norm_rope_fusion: bool | None = None
    fuse_qk_norm_rope_kvcache: bool | None = None
    fuse_attn_quant: bool | None = None
    eliminate_noops: bool | None = None
    rope_kvcache_fusion_max_token_num: int | None = None
    fi_allreduce_fusion_max_size_mb: float | None = None


@dataclass
class CompilationConfig:
    """Compilation and graphs; see `docs/levels.md`."""

    mode: CompilationMode | int | str | None = None
    custom_ops: Sequence[str] | None = None
    cudagraph_mode: CUDAGraphMode | int | str | None = None
    pass_config: PassConfig | Mapping[str, Any] | None = None
    backend: str | None = None
    splitting_ops: Sequence[str] | None = None
    compile_sizes: Sequence[int | str] | None = None
    compile_ranges_endpoints: Sequence[int] | None = None
    cudagraph_capture_sizes: Sequence[int] | None = None
    max_cudagraph_capture_size: int | None = None
    cudagraph_num_of_warmups: int | None = None
    inductor_compile_config: Mapping[str, Any] | None = None
    cache_dir: str | None = None
    debug_dump_path: str | None = None


@dataclass
class KernelConfig:
    """Choice of kernels."""

    enable_flashinfer_autotune: bool | None = None
