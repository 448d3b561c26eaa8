"""EngineArgs: what the user asked for, under vLLM's names, from a command line or from keyword arguments.

Nothing is decided here: `resolve` (in `resolve.py`) turns it into an `OzoneConfig`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ozone.config.keys import ALIASES, COMPILATION, ENGINE_KEYS, KERNEL
from ozone.config.leaves import EAGER_FLAG, Leaves, UserValue
from ozone.config.objects import CompilationConfig, KernelConfig
from ozone.config.values import boolean, show
from ozone.errors import ConfigError

DEFAULT_MODEL = "smollm2"

# What `enforce_eager` stands for.
EAGER = {COMPILATION + "mode": "NONE", COMPILATION + "cudagraph_mode": "NONE"}
_CONFIG_OBJECTS = {"compilation_config": COMPILATION, "kernel_config": KERNEL}
# vLLM's flags for single leaves of the config objects.
LEAF_FLAGS: dict[str, str] = {
    "cudagraph_capture_sizes": COMPILATION + "cudagraph_capture_sizes",
    "max_cudagraph_capture_size": COMPILATION + "max_cudagraph_capture_size",
    "enable_flashinfer_autotune": KERNEL + "enable_flashinfer_autotune",
}


@dataclass
class EngineArgs:
    """Everything the engine can be told; None means that the user said nothing.

    Values may be words as on a command line or Python values: both are checked by the same rules, in
    `user_settings`. `compilation_config` and `kernel_config` take mappings, JSON text or the classes of
    `ozone.config`. `ignored` holds warnings about arguments that were accepted without effect.
    """

    model: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    download_dir: str | None = None
    served_model_name: str | Sequence[str] | None = None
    dtype: str | None = None
    quantization: str | None = None
    seed: int | str | None = None
    max_model_len: int | str | None = None
    generation_config: str | None = None
    override_generation_config: Mapping[str, Any] | str | None = None
    hf_overrides: Mapping[str, Any] | str | None = None
    chat_template: str | None = None
    max_logprobs: int | str | None = None
    block_size: int | str | None = None
    kv_cache_memory_bytes: int | str | None = None
    enable_prefix_caching: bool | None = None
    kv_cache_dtype: str | None = None
    max_num_batched_tokens: int | str | None = None
    max_num_seqs: int | str | None = None
    enable_chunked_prefill: bool | None = None
    scheduling_policy: str | None = None
    max_waiting_requests: int | str | None = None
    num_threads: int | str | None = None
    tensor_parallel_size: int | str | None = None
    optimization_level: int | str | None = None
    enforce_eager: bool | None = None
    cudagraph_capture_sizes: Sequence[int] | str | None = None
    max_cudagraph_capture_size: int | str | None = None
    enable_flashinfer_autotune: bool | None = None
    compilation_config: Mapping[str, Any] | CompilationConfig | Leaves | str | int | None = None
    kernel_config: Mapping[str, Any] | KernelConfig | Leaves | str | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> EngineArgs:
        """Keyword arguments as `LLM` takes them. `ConfigError` on a wrong name or value."""
        known = {field.name for field in dataclasses.fields(cls)} - {"ignored"}
        given: dict[str, Any] = {}
        ignored: list[str] = []
        for name, value in kwargs.items():
            if name in known:
                given[name] = _plain(value)
            elif (field := ALIASES.get(name)) is not None:
                if kwargs.get(field) not in (None, value):
                    raise ConfigError(f"{name} and {field} are two names of one argument")
                given[field] = value
            else:
                ignored += _answer(name, value, known)
        args = cls(**given, ignored=tuple(ignored))
        args.user_settings()
        return args

    def user_settings(self) -> tuple[dict[str, UserValue], list[str]]:
        """The values that the user set, by full key and checked, and warnings about ones without effect."""
        leaves = Leaves(notices=list(self.ignored))
        for key in ENGINE_KEYS.values():
            value = getattr(self, key.name)
            if value is not None and not means_unset(key.name, value):
                parsed = key.kind(value, key.flag)
                leaves.settings[key.key] = UserValue(parsed, key.flag)
        for name, prefix in _CONFIG_OBJECTS.items():
            _merge_object(leaves, prefix, getattr(self, name))
        for name, leaf in LEAF_FLAGS.items():
            if (value := getattr(self, name)) is not None:
                leaves.agree(leaf, value, f"--{name.replace('_', '-')}={show(value)}")
        if self.enforce_eager is not None and boolean(self.enforce_eager, EAGER_FLAG):
            for leaf, value in EAGER.items():
                leaves.agree(leaf, value, EAGER_FLAG)
        return leaves.settings, leaves.notices


def _answer(name: str, value: object, known: Collection[str]) -> list[str]:
    """The warning about an argument that vLLM has and Ozone has not, if its value deserves one."""
    from ozone.config.upstream import accepted, nearest  # only needed for what Ozone has not
    from ozone.config.vllm_answers import answer
    from ozone.config.vllm_options import OPTIONS

    if name not in OPTIONS:
        raise ConfigError(f"there is no argument {name}{nearest(name, known)}")
    reason = answer(name, value, name)
    return [] if reason is None else [accepted(name, reason)]


def _plain(value: object) -> Any:
    """A path or a type of torch as the word that stands for it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    return value


def set_eager(leaves: Leaves) -> None:
    """What `--enforce-eager` does at its place in a command line."""
    for leaf, value in EAGER.items():
        leaves.set(leaf, value, EAGER_FLAG)


# vLLM's words for the default: "as much as fits", and "none" where None is allowed.
_NONE = ("none", "null", "")
_UNSET: dict[str, tuple[str, ...]] = {
    "max_model_len": ("auto", "-1", *_NONE),
    "quantization": _NONE,
    "revision": _NONE,
    "download_dir": _NONE,
    "chat_template": _NONE,
    "tokenizer": _NONE,
    "kv_cache_memory_bytes": _NONE,
}


def means_unset(name: str, value: object) -> bool:
    """Whether the value of an argument asks for what is the default anyway."""
    return name in _UNSET and show(value).strip().lower() in _UNSET[name]


def _merge_object(leaves: Leaves, prefix: str, given: object) -> None:
    if given is None:
        return
    if isinstance(given, int) and not isinstance(given, bool) and prefix == COMPILATION:
        given = {"mode": given}  # as vLLM's LLM has it
    if isinstance(given, Leaves):
        leaves.settings.update(given.settings)
        leaves.notices.extend(given.notices)
    else:
        leaves.merge(prefix, given)
