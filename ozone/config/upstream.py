"""What vLLM's users type that Ozone has not: answered, refused, or accepted without effect.

Tables of names as data; `docs/flags.md` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Ignored(NamedTuple):
    """A flag that is accepted without effect. `values` counts the words after it: 0, 1, or -1 for any."""

    reason: str
    values: int


# Flags that deserve an answer of their own.
ANSWERS: dict[str, str] = {
    "trust_remote_code": "Ozone never runs code that comes with a model; leave the flag away",
    "gpu_memory_utilization": "there is no GPU here; say how much memory the KV cache gets with "
    "--kv-cache-memory-bytes (for example 2G)",
}

# Flags, by keyword argument.
REFUSED_FLAGS: dict[str, str] = {
    "quantization": "the checkpoint itself says how it is quantized",
    "pipeline_parallel_size": "one machine runs the whole model",
    "data_parallel_size": "start several servers instead",
    "enable_lora": "adapters are not built",
    "speculative_config": "speculative decoding is not built",
    "hf_overrides": "the checkpoint's config is read as it stands",
    "load_format": "safetensors and GGUF are told apart by themselves",
    "tokenizer_mode": "tokenizers come from tokenizer.json or from GGUF",
}
IGNORED_FLAGS: dict[str, Ignored] = {
    "swap_space": Ignored("preempted requests are recomputed, not swapped", 1),
    "disable_log_stats": Ignored("statistics are served at /metrics, not logged", 0),
    "disable_log_requests": Ignored("requests are not logged", 0),
    "disable_custom_all_reduce": Ignored("there is one process", 0),
}

# Config keys, by full name. A key stands for all keys below it.
REFUSED_KEYS: dict[str, str] = {
    "compilation_config.level": "say -O0 to -O3, or -cc.mode",
}
IGNORED_KEYS: dict[str, str] = {}


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean X?"` for the known name that is nearest to `name`, or nothing."""
    import difflib  # only needed where something is wrong

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""
