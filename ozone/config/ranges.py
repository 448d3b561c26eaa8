"""Compile ranges: at which token counts the compiled graph changes."""

from __future__ import annotations

from collections.abc import Sequence

from ozone.config.engine_settings import ITEM_BYTES
from ozone.config.resolution import Resolution
from ozone.config.schema import CompilationConfig, CompilationMode

ENDPOINTS = "compilation_config.compile_ranges_endpoints"
_PASS = "compilation_config.pass_config."


def compile_ranges(endpoints: Sequence[int], max_num_batched_tokens: int) -> tuple[tuple[int, int], ...]:
    """The ranges of token counts, both ends included, that `endpoints` cut `[1, max]` into."""
    if not endpoints:
        return ()
    inner = {end for end in endpoints if end < max_num_batched_tokens}
    ends = sorted(inner | {max_num_batched_tokens})
    starts = [1, *(end + 1 for end in ends[:-1])]
    return tuple(zip(starts, ends, strict=True))


def compiled_for(config: CompilationConfig, max_num_batched_tokens: int) -> tuple[tuple[int, int], ...]:
    """What a model is compiled for: ranges that follow each other from 1 on, then single counts within them.

    One range where the mode is not VLLM_COMPILE.
    """
    everything = ((1, max_num_batched_tokens),)
    if config.mode is not CompilationMode.VLLM_COMPILE:
        return everything
    ranges = compile_ranges(config.compile_ranges_endpoints, max_num_batched_tokens) or everything
    singles = ((size, size) for size in sorted(set(config.compile_sizes)) if size <= max_num_batched_tokens)
    return (*ranges, *(single for single in singles if single not in ranges))


def resolve_ranges(r: Resolution) -> None:
    """One range where nothing pays only at some counts; an endpoint wherever a fusion stops paying."""
    if r.value("compilation_config.mode") != CompilationMode.VLLM_COMPILE:
        r.put(ENDPOINTS, (), "default", "only mode=VLLM_COMPILE compiles for ranges")
        return
    most = r.value("scheduler.max_num_batched_tokens")
    bounds = {end: why for end, why in _bounds(r) if end < most}
    reason = "; ".join(bounds.values()) or "one range: every fusion pays at every count"
    r.put(ENDPOINTS, (*sorted(bounds), most), r.level_origin, reason)


def _bounds(r: Resolution) -> list[tuple[int, str]]:
    found = []
    rope_bound = r.settings.get(_PASS + "rope_kvcache_fusion_max_token_num")
    rope_on = r.value(_PASS + "fuse_rope_kvcache") or r.value(_PASS + "fuse_qk_norm_rope_kvcache")
    if rope_on and rope_bound is not None and rope_bound.value:
        found.append((rope_bound.value, f"the rotary and KV-cache fusions end at {rope_bound.value} tokens"))
    size = r.settings.get(_PASS + "fi_allreduce_fusion_max_size_mb")
    if r.value(_PASS + "fuse_allreduce_rms") and size is not None and size.value and r.model is not None:
        row = r.model.hidden_size * ITEM_BYTES[r.value("model.dtype")]
        tokens = int(size.value * 1024 * 1024) // row
        if tokens > 0:
            found.append((tokens, f"fuse_allreduce_rms ends at {tokens} tokens"))
    return found
