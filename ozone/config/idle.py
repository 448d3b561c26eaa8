"""Notices about user values that nothing reads under the other settings."""

from __future__ import annotations

from collections.abc import Mapping

from ozone.config.resolution import Resolution
from ozone.config.schema import CompilationMode, CUDAGraphMode
from ozone.config.values import show

_CC = "compilation_config."
_PASS = _CC + "pass_config."
_COMPILED = f"{_CC}mode is NONE"
_NOTHING = f"{_CC}mode and {_CC}cudagraph_mode are NONE"
_SPLIT = f"{_CC}mode is not VLLM_COMPILE"
_GRAPHS = f"{_CC}cudagraph_mode is NONE"
_ROPE = "neither fuse_rope_kvcache nor fuse_qk_norm_rope_kvcache is on"
_RECORDED = "graphs are recorded without running anything"
_ALLREDUCE = "fuse_allreduce_rms is off"
_TOKENS = "scheduler.max_num_batched_tokens"
_SEQS = "scheduler.max_num_seqs"

# Under which circumstances nothing reads a setting.
_IDLE_WHEN: Mapping[str, str] = {
    _CC + "backend": _COMPILED,
    _CC + "inductor_compile_config": _COMPILED,
    _CC + "debug_dump_path": _NOTHING,
    _CC + "compile_sizes": _SPLIT,
    _CC + "compile_ranges_endpoints": _SPLIT,
    _CC + "splitting_ops": _SPLIT,
    _CC + "cudagraph_capture_sizes": _GRAPHS,
    _CC + "max_cudagraph_capture_size": _GRAPHS,
    _CC + "cudagraph_num_of_warmups": _RECORDED,
    _PASS + "rope_kvcache_fusion_max_token_num": _ROPE,
    _PASS + "fi_allreduce_fusion_max_size_mb": _ALLREDUCE,
}


def note_idle_values(r: Resolution) -> None:
    """Add a notice for each user value that has no effect."""
    mode, graphs = r.value(_CC + "mode"), r.value(_CC + "cudagraph_mode")
    rope = r.value(_PASS + "fuse_rope_kvcache") or r.value(_PASS + "fuse_qk_norm_rope_kvcache")
    holds = {
        _COMPILED: mode == CompilationMode.NONE,
        _NOTHING: mode == CompilationMode.NONE and graphs is CUDAGraphMode.NONE,
        _SPLIT: mode != CompilationMode.VLLM_COMPILE,
        _GRAPHS: graphs is CUDAGraphMode.NONE,
        _RECORDED: True,
        _ROPE: not rope,
        _ALLREDUCE: not r.value(_PASS + "fuse_allreduce_rms"),
    }
    for key, circumstance in _IDLE_WHEN.items():
        if r.by_user(key) and holds[circumstance]:
            r.notices.append(f"{r.flag(key)} has no effect: {circumstance}")
    if not holds[_SPLIT]:
        _note_compiled_sizes(r)
    if not holds[_GRAPHS]:
        _note_capture_sizes(r)


def _note_compiled_sizes(r: Resolution) -> None:
    """Compile sizes and ranges end at the largest step."""
    most = r.value(_TOKENS)
    _note_beyond(r, _CC + "compile_sizes", most, f"no step has more than {_TOKENS}={most} tokens")
    ends = _CC + "compile_ranges_endpoints"
    _note_beyond(r, ends, most, f"the last range ends at {_TOKENS}={most}")
    if r.by_user(ends) and list(r.value(ends)) != sorted(set(r.value(ends))):
        r.notices.append(f"{r.flag(ends)} is read in ascending order and without repetitions")


def _note_capture_sizes(r: Resolution) -> None:
    """A graph is captured for batches that a step can hold: of tokens, or of requests that decode."""
    tokens, seqs = r.value(_TOKENS), r.value(_SEQS)
    for key in (_CC + "cudagraph_capture_sizes", _CC + "max_cudagraph_capture_size"):
        if r.value(_CC + "cudagraph_mode") is CUDAGraphMode.FULL_DECODE_ONLY:
            _note_beyond(r, key, seqs, f"no step decodes for more than {_SEQS}={seqs} requests")
        elif not _note_beyond(r, key, tokens, f"no step has more than {_TOKENS}={tokens} tokens"):
            _note_beyond(
                r, key, seqs, f"only steps with prompts are that large, with {_SEQS}={seqs}", "for decoding "
            )


def _note_beyond(r: Resolution, key: str, most: int, reason: str, part: str = "") -> bool:
    """Add a notice where the user's sizes go beyond `most`; whether they do."""
    if not r.by_user(key):
        return False
    value = r.value(key)
    beyond = [size for size in (value if isinstance(value, tuple) else (value,)) if size > most]
    if beyond:
        r.notices.append(f"{r.flag(key)}: {show(beyond)} has no effect {part}because {reason}")
    return bool(beyond)
