"""Resolution of `compilation_config.*` and `kernel_config.*`: what user values need, then the table."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ozone.config.custom_ops import all_enabled, custom_op_enabled
from ozone.config.idle import note_idle_values
from ozone.config.levels import (
    FUSIONS,
    PLATFORM_DEFAULT,
    TABLE,
    Situation,
    activation_op,
    capabilities,
)
from ozone.config.ranges import resolve_ranges
from ozone.config.resolution import Resolution
from ozone.config.schema import CompilationMode, CUDAGraphMode
from ozone.config.values import CAPTURE_SIZES

MODE = "compilation_config.mode"
CUSTOM_OPS = "compilation_config.custom_ops"
GRAPHS = "compilation_config.cudagraph_mode"
SPLITTING = "compilation_config.splitting_ops"
SIZES = "compilation_config.cudagraph_capture_sizes"
COMPILE_SIZES = "compilation_config.compile_sizes"
MAX_SIZE = "compilation_config.max_cudagraph_capture_size"
ALLREDUCE = "compilation_config.pass_config.fuse_allreduce_rms"
# Passes that put the KV-cache write into another op.
KV_WRITE_PASSES = (
    "compilation_config.pass_config.fuse_rope_kvcache",
    "compilation_config.pass_config.fuse_qk_norm_rope_kvcache",
)
TENSOR_PARALLEL = "parallel.tensor_parallel_size"
AUTOTUNE = "kernel_config.enable_flashinfer_autotune"

_SPLIT_AT_WRITE = "what a graph is split at is not fused"
_PIECES = {CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL_AND_PIECEWISE}
_FULL = {CUDAGraphMode.FULL, CUDAGraphMode.FULL_DECODE_ONLY, CUDAGraphMode.FULL_AND_PIECEWISE}
_KERNELS_ONLY = "graphs record kernels, so that every op must be a custom op"
# The ops at which a traced model is split, and between which pieces replay.
ATTENTION_OPS = ("attention",)
# Every size that is captured takes time at the start.
LARGEST_DEFAULT_CAPTURE = 512


def resolve_compilation(r: Resolution) -> None:
    """Decide every compilation and kernel setting, in the order of the specification."""
    _require_for_graphs(r)
    _require_for_passes(r)
    _resolve_mode(r)
    _require_for_full_graphs(r)
    _resolve_custom_ops(r)
    _resolve_graphs(r)
    _resolve_passes(r)
    _resolve_capture_sizes(r)
    _expand_compile_sizes(r)
    resolve_ranges(r)
    _resolve_rest(r)
    r.put(AUTOTUNE, TABLE[AUTOTUNE][r.level], r.level_origin, "table of levels")
    note_idle_values(r)


def situation(r: Resolution) -> Situation:
    """What conditions may ask about, once mode and custom ops are decided."""
    return Situation(
        model=r.model,
        platform=r.platform,
        tensor_parallel_size=r.value(TENSOR_PARALLEL),
        custom_ops=r.value(CUSTOM_OPS),
        compiled=r.value(MODE) != CompilationMode.NONE,
    )


def nearest_graph_mode(wanted: CUDAGraphMode, *, pieces: bool, full: bool) -> CUDAGraphMode:
    """The possible mode nearest to `wanted`, where pieces or full graphs may be impossible."""
    if wanted is CUDAGraphMode.FULL_AND_PIECEWISE:
        if full:
            return wanted if pieces else CUDAGraphMode.FULL_DECODE_ONLY
        return CUDAGraphMode.PIECEWISE if pieces else CUDAGraphMode.NONE
    possible = pieces if wanted is CUDAGraphMode.PIECEWISE else full
    return wanted if possible else CUDAGraphMode.NONE


def _require_compilation(r: Resolution, by: str, reason: str) -> None:
    """Raise the mode for the user's value of `by`, unless the level has it as high anyway."""
    if r.by_user(MODE) or TABLE[MODE][r.level] != CompilationMode.VLLM_COMPILE:
        r.require(MODE, CompilationMode.VLLM_COMPILE, by, reason)


def _require_for_graphs(r: Resolution) -> None:
    if not r.by_user(GRAPHS) or r.value(GRAPHS) not in _PIECES:
        return
    _require_compilation(r, GRAPHS, "piecewise graphs need mode=VLLM_COMPILE")
    if r.by_user(SPLITTING) and not r.value(SPLITTING):
        raise r.contradiction(GRAPHS, SPLITTING, "piecewise graphs need splitting ops")


def _user_passes(r: Resolution) -> list[str]:
    return [key for key in FUSIONS if r.by_user(key) and r.value(key)]


def _fusion_ops(r: Resolution, key: str) -> tuple[str, ...]:
    activation = activation_op(r.model)
    return tuple(activation if op == "activation" else op for op in FUSIONS[key].ops)


def _require_for_passes(r: Resolution) -> None:
    for key in _user_passes(r):
        _require_compilation(r, key, "passes run only with mode=VLLM_COMPILE")
        if key in KV_WRITE_PASSES and r.by_user(SPLITTING) and "kv_write" in r.value(SPLITTING):
            raise r.contradiction(key, SPLITTING, _SPLIT_AT_WRITE)
    if r.by_user(ALLREDUCE) and r.value(ALLREDUCE) and r.value(TENSOR_PARALLEL) < 2:
        if r.by_user(TENSOR_PARALLEL):
            raise r.contradiction(ALLREDUCE, TENSOR_PARALLEL, "a single process reduces nothing")
        r.notices.append(f"{r.flag(ALLREDUCE)} matches nothing: tensor_parallel_size is 1")


def _resolve_mode(r: Resolution) -> None:
    r.put(MODE, TABLE[MODE][r.level], r.level_origin, "table of levels")


def _require_for_full_graphs(r: Resolution) -> None:
    """A full graph of an uncompiled model records kernels, so that every op must be one."""
    if not r.by_user(GRAPHS) or r.value(GRAPHS) not in _FULL or r.value(MODE) != CompilationMode.NONE:
        return
    if not r.by_user(CUSTOM_OPS):
        r.put(CUSTOM_OPS, ("all",), f"required by {GRAPHS}", _KERNELS_ONLY)
    elif not all_enabled(r.value(CUSTOM_OPS), compiled=False):
        if r.by_user(MODE):
            raise r.contradiction(GRAPHS, CUSTOM_OPS, _KERNELS_ONLY)
        del r.settings[MODE]
        r.require(MODE, CompilationMode.VLLM_COMPILE, CUSTOM_OPS, _KERNELS_ONLY)


def _resolve_custom_ops(r: Resolution) -> None:
    compiled = r.value(MODE) != CompilationMode.NONE
    if not r.decided(CUSTOM_OPS):
        base, origin, reason = _default_custom_ops(r)
        r.put(CUSTOM_OPS, base, origin, reason)
    for key in _user_passes(r):
        ops = _fusion_ops(r, key)
        custom = [op for op in ops if custom_op_enabled(r.value(CUSTOM_OPS), op, compiled=compiled)]
        if len(custom) == len(ops) or (FUSIONS[key].any_op and custom):
            continue
        reason = f"the fusion matches on {' and '.join(ops)}"
        if r.by_user(CUSTOM_OPS):
            raise r.contradiction(key, CUSTOM_OPS, reason)
        missing = tuple("+" + op for op in ops if op not in custom)
        value = r.settings.pop(CUSTOM_OPS).value
        r.put(CUSTOM_OPS, value + missing, f"required by {key}", reason)


def _default_custom_ops(r: Resolution) -> tuple[tuple[str, ...], str, str]:
    wanted = TABLE[CUSTOM_OPS][r.level]
    if wanted != PLATFORM_DEFAULT:
        return wanted, r.level_origin, "follows from mode=NONE at this level"
    default = capabilities(r.platform).custom_ops
    if r.value(MODE) != CompilationMode.NONE:
        return default, "platform", f"default of the platform {r.platform.name}"
    graphs = r.value(GRAPHS) if r.decided(GRAPHS) else TABLE[GRAPHS][r.level]
    if graphs in _FULL and capabilities(r.platform).full_graphs:
        return ("all",), f"required by {GRAPHS}", _KERNELS_ONLY
    return ("none",), f"required by {MODE}", "follows from mode=NONE"


Hindrance = tuple[str, str]  # origin and reason


def _resolve_graphs(r: Resolution) -> None:
    compiled = r.value(MODE) == CompilationMode.VLLM_COMPILE
    reason = "attention runs between the pieces" if compiled else "only mode=VLLM_COMPILE splits"
    r.put(SPLITTING, ATTENTION_OPS if compiled else (), "default", reason)
    wanted = TABLE[GRAPHS][r.level]
    no_pieces, no_full = _no_pieces(r), _no_full_graphs(r)
    value = nearest_graph_mode(wanted, pieces=no_pieces is None, full=no_full is None)
    if value is wanted:
        r.put(GRAPHS, wanted, r.level_origin, "table of levels")
        return
    asked = ((_PIECES, no_pieces), (_FULL, no_full))
    hindrances = [h for kind, h in asked if wanted in kind and h is not None]
    r.lower(GRAPHS, wanted, value, hindrances[0][0], "; ".join(why for _, why in hindrances))


def _no_pieces(r: Resolution) -> Hindrance | None:
    """Why pieces cannot replay, or None."""
    mode = r.value(MODE)
    if mode != CompilationMode.VLLM_COMPILE:
        return f"required by {MODE}", f"pieces need mode=VLLM_COMPILE and mode is {mode.name}"
    if not r.value(SPLITTING):
        return f"required by {SPLITTING}", "pieces need splitting ops and there are none"
    if not capabilities(r.platform).pieces:
        return "platform", f"the platform {r.platform.name} replays no pieces"
    return _no_kernels(r)


def _no_kernels(r: Resolution) -> Hindrance | None:
    """Why what is replayed has more than kernels in it, or None."""
    mode = r.value(MODE)
    if mode is CompilationMode.STOCK_TORCH_COMPILE:
        return f"required by {MODE}", f"graphs record kernels, and mode={mode.name} generates code"
    if not all_enabled(r.value(CUSTOM_OPS), compiled=mode != CompilationMode.NONE):
        return f"required by {CUSTOM_OPS}", _KERNELS_ONLY
    return None


def _no_full_graphs(r: Resolution) -> Hindrance | None:
    """Why the whole step cannot replay, or None."""
    if not capabilities(r.platform).full_graphs:
        return "platform", f"the platform {r.platform.name} replays no full graphs"
    return _no_kernels(r)


def _resolve_passes(r: Resolution) -> None:
    compiled = r.value(MODE) == CompilationMode.VLLM_COMPILE
    now = situation(r)
    for key in FUSIONS:
        if key not in TABLE:
            _resolve_extra_pass(r, key, compiled)
            continue
        cell = TABLE[key][r.level]
        if cell is False:
            r.put(key, False, r.level_origin, "table of levels")
            continue
        value, reason, origin = cell(now)
        if not compiled and (value or origin == f"required by {CUSTOM_OPS}"):
            mode = r.value(MODE).name
            r.lower(
                key, True, False, f"required by {MODE}", f"passes need mode=VLLM_COMPILE and mode is {mode}"
            )
        elif value and key in KV_WRITE_PASSES and "kv_write" in r.value(SPLITTING):
            r.lower(key, True, False, f"required by {SPLITTING}", _SPLIT_AT_WRITE)
        else:
            r.put(key, value, origin or r.level_origin, reason)


def _resolve_extra_pass(r: Resolution, key: str, compiled: bool) -> None:
    if key.endswith("eliminate_noops"):
        r.put(key, compiled, "default", "on wherever passes run" if compiled else "no passes run")
    else:
        r.put(key, False, "default", "off at every level")


def _resolve_capture_sizes(r: Resolution) -> None:
    if r.value(GRAPHS) is CUDAGraphMode.NONE:
        r.put(SIZES, (), "default", "nothing is captured with cudagraph_mode=NONE")
        r.put(MAX_SIZE, None, "default", "nothing is captured with cudagraph_mode=NONE")
        return
    if r.by_user(SIZES) and r.by_user(MAX_SIZE) and r.value(MAX_SIZE) != max(r.value(SIZES), default=0):
        raise r.contradiction(MAX_SIZE, SIZES, "it must be the largest of the sizes")
    if r.by_user(SIZES):
        largest = max(r.value(SIZES), default=None)
        r.put(MAX_SIZE, largest, f"required by {SIZES}", "the largest of the sizes")
        return
    largest = min(r.value("scheduler.max_num_seqs"), LARGEST_DEFAULT_CAPTURE)
    r.put(MAX_SIZE, largest, "default", f"max_num_seqs, and at most {LARGEST_DEFAULT_CAPTURE}")
    sizes = default_capture_sizes(r.value(MAX_SIZE))
    r.put(SIZES, sizes, "default", "1, 2, 4, then steps of 8, from 256 on of 16, up to the maximum")


def default_capture_sizes(largest: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 16, 24, ... 256, 272, ... and `largest` itself."""
    sizes = {size for size in (1, 2, 4, *range(8, 256, 8), *range(256, largest, 16)) if size < largest}
    return tuple(sorted(sizes | {largest}))


def _expand_compile_sizes(r: Resolution) -> None:
    """The user's word for the captured sizes, as the sizes that it stands for."""
    if not r.by_user(COMPILE_SIZES) or CAPTURE_SIZES not in r.value(COMPILE_SIZES):
        return
    setting = r.settings[COMPILE_SIZES]
    sizes = {size for size in setting.value if size != CAPTURE_SIZES} | set(r.value(SIZES))
    r.settings[COMPILE_SIZES] = dataclasses.replace(setting, value=tuple(sorted(sizes)))


def default_cache_dir() -> tuple[str, str]:
    """Where what is kept between starts lies unless a setting says otherwise, and why there."""
    if os.environ.get("OZONE_CACHE_DIR"):
        return os.environ["OZONE_CACHE_DIR"], "OZONE_CACHE_DIR"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "ozone"), "the user's cache directory"


def _resolve_rest(r: Resolution) -> None:
    cache_dir, why = default_cache_dir()
    rest: dict[str, tuple[Any, str]] = {
        "backend": ("inductor", "compiles what no program covers"),
        "compile_sizes": ((), "no single token counts"),
        "cudagraph_num_of_warmups": (0, "a replayed program needs none"),
        "inductor_compile_config": ({}, "Inductor's own defaults"),
        "cache_dir": (cache_dir, why),
        "debug_dump_path": (None, "nothing is dumped"),
        "pass_config.rope_kvcache_fusion_max_token_num": (None, "no bound on this platform"),
        "pass_config.fi_allreduce_fusion_max_size_mb": (None, "no bound on this platform"),
    }
    for name, (value, reason) in rest.items():
        r.put("compilation_config." + name, value, "default", reason)
