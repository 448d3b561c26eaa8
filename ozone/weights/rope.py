"""Rotary embedding settings of a ``config.json``, in its old and its new layout.

Old: ``rope_theta``, ``rope_scaling`` and, for Gemma 3, ``rope_local_base_freq``. New: everything in
``rope_parameters``, for Gemma 3 once for each kind of layer.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

from ozone.config.model import RopeConfig
from ozone.errors import shown
from ozone.weights.fields import MAX_CONTEXT, Fields

Scaling = Literal["none", "linear", "llama3", "yarn"]
_SCALINGS: dict[str, Scaling] = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
DEFAULT_THETA = 10_000.0
GEMMA3_GLOBAL_THETA = 1_000_000.0


def read_ropes(fields: Fields, *, per_kind: bool) -> tuple[RopeConfig, RopeConfig | None]:
    """The rotary embedding of full-attention layers, and of sliding ones where they have their own.

    `per_kind`: the family (Gemma 3) has one for each kind of layer even where the file does not say so.
    """
    parameters = fields.mapping("rope_parameters") or {}
    scaling = fields.mapping("rope_scaling") or {}
    nested = {kind: parameters.get(kind) for kind in ("full_attention", "sliding_attention")}
    if per_kind:
        if parameters and not any(nested.values()):
            raise fields.fail("rope_parameters", "has neither full_attention nor sliding_attention")
        # Gemma 3 stretches its global layers only.
        full = {"rope_theta": fields.number("rope_theta", GEMMA3_GLOBAL_THETA)}
        local = {"rope_theta": fields.number("rope_local_base_freq", DEFAULT_THETA)}
        full |= _section(fields, nested["full_attention"]) | scaling
        local |= _section(fields, nested["sliding_attention"])
        return _rope(fields, full), _rope(fields, local)
    common = {key: fields.values[key] for key in ("rope_theta", "partial_rotary_factor") if fields.has(key)}
    if any(nested.values()):
        full = common | _section(fields, nested["full_attention"] or nested["sliding_attention"])
        local = common | _section(fields, nested["sliding_attention"] or nested["full_attention"])
        rope, rope_local = _rope(fields, full), _rope(fields, local)
        return rope, rope_local if rope_local != rope else None
    return _rope(fields, common | (scaling or parameters)), None


def usable_context(max_position: int, rope: RopeConfig) -> int:
    """The longest context in tokens, where scaling stretches what the checkpoint states.

    ``llama3`` checkpoints state the stretched length already, ``linear`` and ``yarn`` ones the trained one.
    """
    stretched = {"linear": max_position, "yarn": rope.original_max_position}.get(
        rope.scaling, 0
    ) * rope.factor
    return min(max(max_position, int(stretched)), MAX_CONTEXT)


def read_theta(fields: Fields, key: str, default: float) -> float:
    """The base of the frequencies, above 1: at 1 all columns would turn alike."""
    theta = fields.number(key, default)
    if theta <= 1.0:
        raise fields.fail(key, f"is {shown(theta)}, not a number greater than 1")
    return theta


def _section(fields: Fields, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise fields.fail("rope_parameters", f"has {shown(value)} where an object is expected")
    return value or {}


def _rope(fields: Fields, values: dict[str, Any]) -> RopeConfig:
    rope = Fields(values, f"{fields.where}: rotary embedding")
    partial = rope.number("partial_rotary_factor", 1.0)
    if partial > 1.0:
        raise rope.fail("partial_rotary_factor", f"is {shown(partial)}, more than the whole head")
    return replace(_whole_rope(fields, rope), partial=partial)


def _whole_rope(fields: Fields, rope: Fields) -> RopeConfig:
    scaling = _scaling(rope)
    theta = read_theta(rope, "rope_theta", DEFAULT_THETA)
    if scaling == "none":
        return RopeConfig(theta=theta)
    if scaling == "linear":
        return RopeConfig(theta=theta, scaling=scaling, factor=_required(rope, "factor"))
    max_position = fields.size("max_position_embeddings", most=MAX_CONTEXT)
    trained = fields.optional_size("original_max_position_embeddings", MAX_CONTEXT) or rope.size(
        "original_max_position_embeddings", max_position, MAX_CONTEXT
    )
    if scaling == "llama3":
        low, high = _required(rope, "low_freq_factor"), _required(rope, "high_freq_factor")
        if high <= low:
            raise rope.fail("high_freq_factor", f"{high} is not greater than low_freq_factor {low}")
        return RopeConfig(
            theta=theta,
            scaling=scaling,
            factor=_required(rope, "factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_position=trained,
        )
    if not rope.flag("truncate", True):
        raise rope.fail("truncate", "is false, which is not supported")
    factor = rope.number("factor", max_position / trained)
    return RopeConfig(
        theta=theta,
        scaling=scaling,
        factor=factor,
        original_max_position=trained,
        attention_factor=_yarn_attention_factor(rope, factor),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
    )


def _scaling(rope: Fields) -> Scaling:
    key = "rope_type" if rope.has("rope_type") else "type"
    return _SCALINGS[rope.choice(key, _SCALINGS, "default")]


def _required(rope: Fields, key: str) -> float:
    value = rope.number(key)
    if value is None:
        raise rope.fail(key, "is missing")
    return value


def _yarn_attention_factor(rope: Fields, factor: float) -> float | None:
    """The magnitude of cos and sin where the file sets it; None for YaRN's own choice."""
    explicit = rope.number("attention_factor")
    over, under = rope.number("mscale", positive=False), rope.number("mscale_all_dim", positive=False)
    if explicit is not None or not over or not under:
        return explicit
    log = math.log(max(factor, 1.0))
    return (0.1 * over * log + 1.0) / (0.1 * under * log + 1.0)
