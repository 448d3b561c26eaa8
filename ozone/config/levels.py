"""The optimization levels as one table. `docs/levels.md` shows it to users.

A cell is a value, or a condition: a named function that says whether a fusion is on, and why.
Nothing outside `ozone/config/` asks for the level; everything else reads the resolved config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ozone.config.custom_ops import custom_op_enabled
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.schema import CompilationMode, CUDAGraphMode

DEFAULT_LEVEL = 2
LEVELS = (0, 1, 2, 3)


class Capabilities(NamedTuple):
    """What a platform can do by design, whichever kernels this machine's build has."""

    custom_ops: tuple[str, ...]
    fused_kernels: frozenset[str]
    pieces: bool
    full_graphs: bool


# The CPU platform: every custom op on above -O0. Without one of them decoding is 2.7 to 11 times slower.
CAPABILITIES: Mapping[str, Capabilities] = {
    "cpu": Capabilities(
        custom_ops=("all",),
        fused_kernels=frozenset({"rope_kvcache", "act_padding", "allreduce_rms"}),
        pieces=True,
        full_graphs=True,
    ),
}
_UNKNOWN_PLATFORM = Capabilities(("none",), frozenset(), pieces=False, full_graphs=False)


def capabilities(platform: PlatformFacts) -> Capabilities:
    """What `platform` can do; an unknown platform can do nothing."""
    return CAPABILITIES.get(platform.name, _UNKNOWN_PLATFORM)


@dataclass(frozen=True)
class Situation:
    """What a condition may ask about. `model` is None where no model was named.

    `custom_ops` and `compiled` are resolved before any condition is asked.
    """

    model: ModelConfig | None
    platform: PlatformFacts
    tensor_parallel_size: int
    custom_ops: tuple[str, ...]
    compiled: bool

    def custom(self, op: str) -> bool:
        """Whether `op` runs as a kernel of its own."""
        return custom_op_enabled(self.custom_ops, op, compiled=self.compiled)

    def fused_kernel(self, name: str) -> bool:
        """Whether the platform has that fused kernel, by design or in this build."""
        return name in capabilities(self.platform).fused_kernels or name in self.platform.kernels


class Verdict(NamedTuple):
    """What a condition found. `origin` is None where the level itself decides."""

    value: bool
    reason: str
    origin: str | None = None


def activation_op(model: ModelConfig | None) -> str:
    """The op of the model's gate."""
    return "gelu_and_mul" if model is not None and model.hidden_act.startswith("gelu") else "silu_and_mul"


Condition = Callable[[Situation], Verdict]


def _either_op_is_custom(first: str, second: str, situation: Situation) -> Verdict:
    if situation.custom(first) or situation.custom(second):
        return Verdict(True, f"{first} or {second} is a custom op")
    return Verdict(
        False,
        f"neither {first} nor {second} is a custom op; the compiler's own fusion is better",
        "required by compilation_config.custom_ops",
    )


def norm_or_quant_is_custom(situation: Situation) -> Verdict:
    """(1) for norm and quantization."""
    return _either_op_is_custom("rms_norm", "quantize", situation)


def act_or_quant_is_custom(situation: Situation) -> Verdict:
    """(1) for activation and quantization."""
    return _either_op_is_custom(activation_op(situation.model), "quantize", situation)


def _ops_are_custom(ops: tuple[str, ...], situation: Situation, reason: str) -> Verdict:
    for op in ops:
        if not situation.custom(op):
            return Verdict(False, f"{op} is not a custom op", "required by compilation_config.custom_ops")
    return Verdict(True, reason)


def _kernel_fits(kernel: str, ops: tuple[str, ...], situation: Situation) -> Verdict:
    if not situation.fused_kernel(kernel):
        name = situation.platform.name
        return Verdict(False, f"the platform {name} has no fused {kernel} kernel", "platform")
    return _ops_are_custom(ops, situation, f"the platform has the fused {kernel} kernel")


def norm_padding_kernel_fits(situation: Situation) -> Verdict:
    """(2) for norm and padding. Every family here has RMS norms."""
    return _kernel_fits("act_padding", ("rms_norm", "pad"), situation)


def rope_kvcache_kernel_fits(situation: Situation) -> Verdict:
    """(2) for rotary embedding and KV-cache write. Every family here has rotary embeddings."""
    return _kernel_fits("rope_kvcache", ("rotary_embedding",), situation)


def parallel_and_kernel_fits(situation: Situation) -> Verdict:
    """(3): all-reduce exists only between processes."""
    size = situation.tensor_parallel_size
    if size < 2:
        return Verdict(False, f"on only with tensor_parallel_size > 1, and it is {size}")
    return _kernel_fits("allreduce_rms", ("rms_norm",), situation)


def norm_is_custom(situation: Situation) -> Verdict:
    """(4): a residual is added by PyTorch where PyTorch normalizes the sum."""
    return _ops_are_custom(("rms_norm",), situation, "rms_norm is a custom op")


def model_has_qk_norms(situation: Situation) -> Verdict:
    """(5) for the norms of the heads of q and k, and their rotation."""
    if situation.model is None or not situation.model.qk_norm:
        return Verdict(False, "the model does not normalize q and k", "model")
    return _ops_are_custom(("rms_norm", "rotary_embedding"), situation, "the model normalizes q and k")


# Stands in a cell for what only the platform knows.
PLATFORM_DEFAULT = "the platform's default"

_PASS = "compilation_config.pass_config."

# One row per setting, one column per level.
TABLE: Mapping[str, tuple[Any, Any, Any, Any]] = {
    "compilation_config.mode": (
        CompilationMode.NONE,
        CompilationMode.VLLM_COMPILE,
        CompilationMode.VLLM_COMPILE,
        CompilationMode.VLLM_COMPILE,
    ),
    "compilation_config.custom_ops": (("none",), PLATFORM_DEFAULT, PLATFORM_DEFAULT, PLATFORM_DEFAULT),
    "compilation_config.cudagraph_mode": (
        CUDAGraphMode.NONE,
        CUDAGraphMode.PIECEWISE,
        CUDAGraphMode.FULL_AND_PIECEWISE,
        CUDAGraphMode.FULL_AND_PIECEWISE,
    ),
    _PASS + "fuse_norm_quant": (False, *(norm_or_quant_is_custom,) * 3),
    _PASS + "fuse_act_quant": (False, *(act_or_quant_is_custom,) * 3),
    _PASS + "fuse_act_padding": (False, *(norm_padding_kernel_fits,) * 3),
    _PASS + "fuse_rope_kvcache": (False, *(rope_kvcache_kernel_fits,) * 3),
    _PASS + "fuse_allreduce_rms": (False, False, parallel_and_kernel_fits, parallel_and_kernel_fits),
    _PASS + "fuse_add_rms_norm": (False, *(norm_is_custom,) * 3),
    _PASS + "enable_qk_norm_rope_fusion": (False, *(model_has_qk_norms,) * 3),
    "kernel_config.enable_flashinfer_autotune": (False, True, True, True),
}


class Fusion(NamedTuple):
    """What a pass switch matches on. `any_op`: one custom op among `ops` is enough."""

    ops: tuple[str, ...]
    any_op: bool = False


# "activation" stands for the op of the model's gate.
FUSIONS: Mapping[str, Fusion] = {
    _PASS + "fuse_norm_quant": Fusion(("rms_norm", "quantize"), any_op=True),
    _PASS + "fuse_act_quant": Fusion(("activation", "quantize"), any_op=True),
    _PASS + "fuse_act_padding": Fusion(("rms_norm", "pad")),
    _PASS + "fuse_rope_kvcache": Fusion(("rotary_embedding",)),
    _PASS + "fuse_allreduce_rms": Fusion(("rms_norm",)),
    _PASS + "fuse_add_rms_norm": Fusion(("rms_norm",)),
    _PASS + "enable_qk_norm_rope_fusion": Fusion(("rms_norm", "rotary_embedding")),
    _PASS + "fuse_qk_norm_rope_kvcache": Fusion(("rms_norm", "rotary_embedding")),
    _PASS + "fuse_attn_quant": Fusion(("quantize",)),
    _PASS + "eliminate_noops": Fusion(()),
}
