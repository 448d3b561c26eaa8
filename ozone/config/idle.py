"""Notices about user values that nothing reads under the other settings."""

from __future__ import annotations

from collections.abc import Mapping

from ozone.config.resolution import Resolution
from ozone.config.schema import CompilationMode, CUDAGraphMode

_CC = "compilation_config."
_PASS = _CC + "pass_config."
_COMPILED = f"{_CC}mode is NONE"
_SPLIT = f"{_CC}mode is not VLLM_COMPILE"
_GRAPHS = f"{_CC}cudagraph_mode is NONE"
_ROPE = "neither fuse_rope_kvcache nor fuse_qk_norm_rope_kvcache is on"
_ALLREDUCE = "fuse_allreduce_rms is off"

# Under which circumstances nothing reads a setting.
_IDLE_WHEN: Mapping[str, str] = {
    _CC + "backend": _COMPILED,
    _CC + "inductor_compile_config": _COMPILED,
    _CC + "compile_sizes": _SPLIT,
    _CC + "compile_ranges_endpoints": _SPLIT,
    _CC + "splitting_ops": _SPLIT,
    _CC + "cudagraph_capture_sizes": _GRAPHS,
    _CC + "max_cudagraph_capture_size": _GRAPHS,
    _CC + "cudagraph_num_of_warmups": _GRAPHS,
    _PASS + "rope_kvcache_fusion_max_token_num": _ROPE,
    _PASS + "fi_allreduce_fusion_max_size_mb": _ALLREDUCE,
}


def note_idle_values(r: Resolution) -> None:
    """Add a notice for each user value that has no effect."""
    mode = r.value(_CC + "mode")
    rope = r.value(_PASS + "fuse_rope_kvcache") or r.value(_PASS + "fuse_qk_norm_rope_kvcache")
    holds = {
        _COMPILED: mode == CompilationMode.NONE,
        _SPLIT: mode != CompilationMode.VLLM_COMPILE,
        _GRAPHS: r.value(_CC + "cudagraph_mode") is CUDAGraphMode.NONE,
        _ROPE: not rope,
        _ALLREDUCE: not r.value(_PASS + "fuse_allreduce_rms"),
    }
    for key, circumstance in _IDLE_WHEN.items():
        if r.by_user(key) and holds[circumstance]:
            r.notices.append(f"{r.flag(key)} has no effect: {circumstance}")
