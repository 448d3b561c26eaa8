"""The page of `ozone bench graph`: a timeline of each step. Needs nothing else; what it shows is escaped."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).with_name("graph_page.html")
# Of the drawing, in its own units.
WIDTH = 1200.0
# A kernel has one colour on every page. Told apart by eyes that see colours differently, too: products in
# blues and greens, attention in reds, what moves a step's activations in yellows and greys.
_COLOURS = {
    "linear_gguf": "#0072b2", "linear_int8": "#56b4e9", "linear_float": "#009e73", "linear_fp8": "#005f73",
    "linear_int4": "#7b68c8", "attention": "#d55e00", "attention_merge": "#f2a07b",
    "attention_merge_quantize": "#a63c06", "rms_norm": "#f0e442", "fused_add_rms_norm": "#d4b106",
    "rms_norm_quantize": "#fff3a3", "fused_add_rms_norm_quantize": "#a88b00",
    "activation_and_mul": "#e69f00", "activation_and_mul_quantize": "#b87a00", "elementwise": "#8c6d46",
    "quantize": "#c9b18b", "rotary_embedding": "#cc79a7", "qk_norm_rotary_embedding": "#a0527f",
    "kv_write": "#e8b4d0", "rotary_embedding_kv_write": "#93467a",
    "qk_norm_rotary_embedding_kv_write": "#6d2f5b", "embedding": "#bbbbbb", "embedding_gguf": "#999999",
    "gather_columns": "#777777", "sample": "#444444", "token_logprobs": "#222222",
}  # fmt: skip


def colour(kernel: str) -> str:
    """A kernel's colour; of one that is not listed it follows from its name."""
    return _COLOURS.get(kernel) or f"hsl({zlib.crc32(kernel.encode()) % 360}, 45%, 55%)"


def page(title: str, results: Sequence[dict[str, Any]]) -> str:
    """The page of what `ozone bench graph --json` has under ``results``."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, width=WIDTH, steps=[_step(result) for result in results])


def _step(result: dict[str, Any]) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for node in result["nodes"]:
        seconds[node["kernel"]] = seconds.get(node["kernel"], 0.0) + node["seconds"]
    total = sum(seconds.values()) or 1.0
    ordered = sorted(seconds, key=lambda kernel: -seconds[kernel])
    bars, begin = [], 0.0
    for place, node in enumerate(result["nodes"]):
        share = node["share_of_limit"]
        limit = "" if share is None else f", {share:.0%} of the limit"
        bars.append(
            {
                "x": round(begin / total * WIDTH, 3),
                "width": round(node["seconds"] / total * WIDTH, 3),
                "colour": colour(node["kernel"]),
                "height": round(100.0 * min(share, 1.0), 1) if share is not None else 100.0,
                "bound": share is not None,
                "tip": f"{place}: {node['kernel']} {node['shape']}: {node['seconds'] * 1e6:.1f} us{limit}",
            }
        )
        begin += node["seconds"]
    legend = [
        (kernel, colour(kernel), f"{seconds[kernel] * 1e3:.3f} ms", f"{seconds[kernel] / total:.1%}")
        for kernel in ordered
    ]
    modes = [(name, f"{summary['median'] * 1e3:.3f} ms") for name, summary in result["step_seconds"].items()]
    return {
        "name": result["batch"],
        "bars": bars,
        "legend": legend,
        "modes": modes,
        "between": f"{result['share_between_launches']:+.1%}",
        "sum": f"{total * 1e3:.3f} ms",
        "count": len(bars),
        "doubts": "; ".join(result["doubts"]),
    }
