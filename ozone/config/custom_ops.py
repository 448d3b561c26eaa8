"""`custom_ops`: which ops it governs, and what a list of `all`, `none`, `+op`, `-op` says about one."""

from __future__ import annotations

from collections.abc import Sequence

# Attention, the KV-cache write, linear, embedding and sampling are not here: they are one node each, always.
CUSTOM_OPS: tuple[str, ...] = (
    "rms_norm",
    "silu_and_mul",
    "gelu_and_mul",
    "rotary_embedding",
    "quantize",
    "pad",
)

_ALIASES = {"quant_fp8": "quantize", "fused_add_rms_norm": "rms_norm"}


def custom_op_name(name: str) -> str | None:
    """The governed op that `name` means, or None where there is none."""
    name = _ALIASES.get(name, name)
    return name if name in CUSTOM_OPS else None


def custom_op_enabled(custom_ops: Sequence[str], name: str, *, compiled: bool) -> bool:
    """Whether the op runs as one node (True) or as its PyTorch reference (False).

    A list that names neither ``all`` nor ``none`` changes single ops of the default, which is every op
    where the model is compiled and no op where it is not.
    """
    op = custom_op_name(name)
    enabled = "all" in custom_ops or (compiled and "none" not in custom_ops)
    for word in custom_ops:
        if word[:1] in ("+", "-") and custom_op_name(word[1:]) == op:
            enabled = word[0] == "+"
    return enabled


def all_enabled(custom_ops: Sequence[str], *, compiled: bool) -> bool:
    """Whether every governed op runs as one node."""
    return all(custom_op_enabled(custom_ops, name, compiled=compiled) for name in CUSTOM_OPS)
