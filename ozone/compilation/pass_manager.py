"""The pass manager: runs the enabled passes over a graph, and says what each has found, or why nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import fx

from ozone.compilation.observer import Observer
from ozone.compilation.passes import FUSIONS
from ozone.compilation.passes.noops import eliminate_noops
from ozone.compilation.pieces import op_name, splitting_names
from ozone.compilation.rules import Fusion, Rule
from ozone.compilation.trace import has_effect
from ozone.config.custom_ops import custom_op_enabled
from ozone.config.schema import CompilationConfig
from ozone.ops.schemas import SCHEMAS

logger = logging.getLogger("ozone")


@dataclass(frozen=True)
class PassReport:
    """What a pass did to the graph of one range of token counts.

    Attributes:
        flag: its switch in `PassConfig`.
        first, last: the range.
        places: how many places of the graph it has rewritten.
        seconds: how long that took.
        reason: why there was none, or None.
    """

    flag: str
    first: int
    last: int
    places: int
    seconds: float
    reason: str | None


NOOPS = "eliminate_noops"


def run_passes(
    graph: fx.Graph, config: CompilationConfig, first: int, last: int, observer: Observer | None = None
) -> list[PassReport]:
    """Rewrite the graph of the range of `first` to `last` tokens by all passes that are on, in their order.

    What nobody needs any more is gone afterwards, except for what writes.
    """
    observer = observer or Observer()
    reports = []
    for flag, run in _passes(config, last):
        began = time.perf_counter()
        try:
            places, reason = run(graph)
        except Exception as error:
            error.add_note(flag)
            raise
        seconds = time.perf_counter() - began
        logger.debug("%s: %d places in %.1f ms", flag, places, seconds * 1e3)
        reports.append(PassReport(flag, first, last, places, seconds, reason))
        observer.rewrote(graph, reports[-1])
    graph.eliminate_dead_code(is_impure_node=has_effect)
    observer.rewrote(graph, None)
    log_reports(reports)
    return reports


def log_reports(reports: Sequence[PassReport]) -> None:
    """Say in the log which passes of a range have found nothing, and why."""
    nothing = [f"{r.flag} ({r.reason})" for r in reports if r.reason is not None and r.flag != NOOPS]
    if nothing:
        first, last = reports[0].first, reports[0].last
        logger.info("nothing to fuse for %d to %d tokens: %s", first, last, "; ".join(nothing))


# Rewrites a graph; returns in how many places, and why in none.
_Run = Callable[[fx.Graph], tuple[int, str | None]]


def _passes(config: CompilationConfig, tokens: int) -> Iterator[tuple[str, _Run]]:
    """The passes that are on, by their flags; `tokens`: the most tokens in a step."""
    if config.pass_config.eliminate_noops:
        yield NOOPS, _run_noops
    for fusion in FUSIONS:
        if getattr(config.pass_config, fusion.flag):
            yield fusion.flag, partial(_run_fusion, fusion, config, tokens)


def _run_noops(graph: fx.Graph) -> tuple[int, str | None]:
    places = eliminate_noops(graph)
    return places, None if places else "every op does something"


def _run_fusion(
    fusion: Fusion, config: CompilationConfig, tokens: int, graph: fx.Graph
) -> tuple[int, str | None]:
    most = fusion.max_tokens(config.pass_config)
    if most is not None and tokens > most:
        return 0, f"on up to {most} tokens"
    # A rule must not take away an op at which the graph is to be split, unless it puts another one there.
    splitting = splitting_names(config.splitting_ops)
    rules = [
        rule
        for rule in fusion.rules
        if splitting.isdisjoint(rule.ops) or not splitting.isdisjoint(rule.new_ops)
    ]
    if not rules:
        at = sorted(splitting.intersection(*(rule.ops for rule in fusion.rules)))
        return 0, f"the graph is split at {', '.join(at)}"
    places = sum(rule.apply(graph) for rule in rules)
    return places, None if places else _why_nothing(graph, rules, config)


def _why_nothing(graph: fx.Graph, rules: Sequence[Rule], config: CompilationConfig) -> str:
    present = {op_name(node) for node in graph.nodes}
    missing = [[op for op in rule.ops if op not in present] for rule in rules]
    fewest = min(map(len, missing))
    if fewest == 0:
        return "its ops do not follow each other here, or something else needs what is between them"
    ops = sorted({op for of_rule in missing if len(of_rule) == fewest for op in of_rule})
    governors = {SCHEMAS[op].custom_op for op in ops} - {None}
    disabled = sorted(
        name for name in governors if name and not custom_op_enabled(config.custom_ops, name, compiled=True)
    )
    if disabled:
        return f"{' and '.join(disabled)} {'is no custom op' if len(disabled) == 1 else 'are no custom ops'}"
    return f"the graph has no {', '.join(ops)}"
