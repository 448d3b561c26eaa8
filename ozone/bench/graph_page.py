"""The page of `ozone bench graph`: a timeline of each step. Needs nothing else; what it shows is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).with_name("graph_page.html")
# Of the drawing, in its own units.
WIDTH = 1200.0
# Told apart by eyes that see colours differently too; kernels beyond these share the last one.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


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
    colours = {kernel: _COLOURS[min(i, len(_COLOURS) - 1)] for i, kernel in enumerate(ordered)}
    bars, begin = [], 0.0
    for place, node in enumerate(result["nodes"]):
        share = node["share_of_limit"]
        limit = "" if share is None else f", {share:.0%} of the limit"
        bars.append(
            {
                "x": round(begin / total * WIDTH, 3),
                "width": round(node["seconds"] / total * WIDTH, 3),
                "colour": colours[node["kernel"]],
                "height": round(100.0 * min(share, 1.0), 1) if share is not None else 100.0,
                "bound": share is not None,
                "tip": f"{place}: {node['kernel']} {node['shape']}: {node['seconds'] * 1e6:.1f} us{limit}",
            }
        )
        begin += node["seconds"]
    legend = [
        (kernel, colours[kernel], f"{seconds[kernel] * 1e3:.3f} ms", f"{seconds[kernel] / total:.1%}")
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
    }
