"""`ozone bench graph`: where a step's time goes, launch by launch, as a table and as a picture."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ozone.bench.graph_doubts import doubts
from ozone.bench.graph_nodes import Node, nodes_of
from ozone.bench.graph_page import page
from ozone.bench.limits import Limits
from ozone.bench.others import OtherProcesses
from ozone.bench.reporting import (
    Reporter,
    Row,
    add_report_arguments,
    header,
    milliseconds,
    model_report,
    model_title,
)
from ozone.bench.statistics import Summary, summary_json
from ozone.bench.steps import (
    Batch,
    Steps,
    add_batch_arguments,
    make_batches,
    resolve_programs,
)
from ozone.bench.workload import count
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.schema import CUDAGraphMode, OzoneConfig
from ozone.engine.input_buffers import BatchCounts
from ozone.engine.sampling_table import SamplingTable
from ozone.entrypoints.assemble import limit_torch_spinning
from ozone.entrypoints.console import start_logging
from ozone.errors import ConfigError

if TYPE_CHECKING:
    from ozone.compilation.compiled import CompiledStep

_DESCRIPTION = """\
Measure every launch of a step: its time, the bytes of weights and KV cache that it reads, and the share of
this machine's limit, measured in the same rounds. Beside it the whole step as each mode of graphs runs it,
with logits and a greedy choice of tokens. With --html the same as a page with a timeline.

Launches are timed in a replay with a barrier behind each of them; a replay without leaves out the barriers
that it does not need, so the whole may be shorter than the sum of its parts."""
_MODES = (CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE, CUDAGraphMode.NONE)
# Replays of each kind in a round: enough to outlast a moment in which the machine does something else.
_SECONDS = 0.05


@dataclass
class Measured:
    """A batch, its launches, and what was measured of them, in seconds.

    Attributes:
        modes: a whole step's median in each round, by mode of graphs.
        sums: of all launches of a replay, likewise.
        reads, operations: the machine's limits in each round: bytes a second, operations by kind of product.
        others: what other processes took of the cores meanwhile, 0 to 1; None: the system does not say.
    """

    batch: Batch
    nodes: list[Node]
    modes: dict[CUDAGraphMode, list[float]] = field(default_factory=lambda: {mode: [] for mode in _MODES})
    sums: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    operations: dict[str, list[float]] = field(default_factory=dict)
    others: float | None = None

    @property
    def doubts(self) -> list[str]:
        """Why these figures are not to be believed."""
        shares = [self.share(node) for node in self.nodes]
        step_bytes = sum(node.bytes for node in self.nodes)
        return doubts(others=self.others, between=self.between, shares=shares, step_bytes=step_bytes)

    @property
    def step(self) -> float:
        return statistics.median(self.modes[CUDAGraphMode.FULL])

    @property
    def between(self) -> float:
        """The part of a replay that is in none of its launches; below zero where barriers were left out."""
        shares = [
            1 - nodes / step for nodes, step in zip(self.sums, self.modes[CUDAGraphMode.FULL], strict=True)
        ]
        return statistics.median(shares)

    def share(self, node: Node) -> float | None:
        """The time that a launch takes at the machine's limits, over its own; None: nothing bounds it."""
        limits = []
        if node.bytes:
            limits.append(node.bytes / statistics.median(self.reads))
        if node.operations and self.operations.get(node.product):
            limits.append(node.operations / statistics.median(self.operations[node.product]))
        return max(limits) / node.seconds if limits and node.seconds else None


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(prog="ozone bench graph", description=_DESCRIPTION)
    group = parser.add_argument_group("measurement")
    add_batch_arguments(group)
    group.add_argument("--rounds", type=count, default=10, metavar="N", help="rounds (default: 10)")
    group.add_argument("--nodes", action="store_true", help="a line for every launch, not for every kind")
    group.add_argument("--html", type=Path, metavar="FILE", help="write a page with a timeline of each step")
    add_report_arguments(parser)
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    start_logging(logging.WARNING)
    limit_torch_spinning()
    files, config = resolve_programs(args, "ozone bench graph")
    if namespace.html is not None:
        _write(namespace.html, "", "a")  # where it cannot be written, nobody shall wait to hear it
    reporter = Reporter(namespace.json)
    names = ("batch_sizes", "context_len", "prefill_len", "rounds")
    parameters = {name: getattr(namespace, name) for name in names}
    batches = make_batches(files, config, namespace.batch_sizes, namespace.context_len, namespace.prefill_len)
    measured = _measure(Steps(files, config, batches), config, batches, namespace.rounds, reporter)
    title = model_title(config)
    report = {
        **header("graph", parameters),
        "model": model_report(config),
        "results": [_as_json(one) for one in measured],
    }
    for one in measured:
        reporter.show(f"{title}: {one.batch.name}", _rows(one, every=namespace.nodes))
        if one.doubts:
            reporter.note(f"{one.batch.name}: not to be believed: {'; '.join(one.doubts)}")
    if namespace.html is not None:
        _write(namespace.html, page(title, [_as_json(one) for one in measured]))
        reporter.note(f"timeline: {namespace.html}")
    reporter.finish_json(report)
    return 0


def _write(path: Path, text: str, mode: str = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"--html {path}: {error.strerror or error}") from None


def _measure(
    model: Steps, config: OzoneConfig, batches: Sequence[Batch], rounds: int, reporter: Reporter
) -> list[Measured]:
    import torch

    programs = model.compile(config.compilation.pass_config)
    step, limits = model.bind(programs), Limits(config.parallel.num_threads)
    results = []
    with reporter.progress("rounds", rounds * len(batches)) as done, torch.inference_mode():
        for batch in batches:
            counts = model.buffers.fill(batch.scheduled)
            table = SamplingTable(len(batch.scheduled))  # of zeros: greedy
            bound = step.whole(counts.num_tokens, table)
            nodes = nodes_of(model, bound, batch, counts, config)
            one = Measured(batch, nodes)
            times: list[Sequence[int]] = []
            others = OtherProcesses()
            for _ in range(rounds):
                _measure_limits(one, limits)
                _measure_round(one, step, bound, counts, table, times)
                done()
            one.others = others.share()
            for node, seconds in zip(nodes, zip(*times, strict=True), strict=True):
                node.seconds = statistics.median(seconds) / 1e9
            results.append(one)
    return results


def _measure_limits(one: Measured, limits: Limits) -> None:
    limits.wake()
    one.reads.append(statistics.median(limits.read() for _ in range(3)))
    for product in {node.product for node in one.nodes if node.product}:
        one.operations.setdefault(product, []).append(limits.peak(product))


def _measure_round(
    one: Measured,
    step: CompiledStep,
    bound: Any,
    counts: BatchCounts,
    table: SamplingTable,
    times: list[Sequence[int]],
) -> None:
    sizes = (counts.num_tokens, counts.num_requests, counts.num_logits)
    for mode in _MODES:
        one.modes[mode].append(_median(partial(step.logits, counts, mode, table)))
    begin = time.perf_counter()
    sums: list[float] = []
    while not sums or time.perf_counter() < begin + _SECONDS:
        times.append(bound.times(sizes))
        sums.append(sum(times[-1]) / 1e9)
    one.sums.append(statistics.median(sums))


def _median(call: Callable[[], object]) -> float:
    call()
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not seconds or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


@dataclass
class _Kind:
    """Launches that are alike."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(node.seconds for node in self.nodes)


def _rows(one: Measured, *, every: bool) -> list[Row]:
    rows: list[Row] = []
    kinds: dict[tuple[str, ...], _Kind] = {}
    for place, node in enumerate(one.nodes):
        key = (f"{place:>3} {node.kernel}",) if every else (node.kernel,)
        kinds.setdefault((*key, node.shape), _Kind()).nodes.append(node)
    ordered = kinds.items() if every else sorted(kinds.items(), key=lambda item: -item[1].seconds)
    for (name, shape), kind in ordered:
        rows.append((f"{name} {shape}", f"{kind.seconds * 1e6:.1f} us", _remark(one, kind)))
    step = one.step
    modes = ", ".join(
        f"{mode.name} {milliseconds(statistics.median(seconds))}" for mode, seconds in one.modes.items()
    )
    total = sum(node.bytes for node in one.nodes)
    reads = statistics.median(one.reads)
    rows += [
        ("sum of the launches", milliseconds(statistics.median(one.sums)), f"{len(one.nodes)} launches"),
        ("the step", milliseconds(step), f"{modes}; {one.between:+.1%} of FULL lies between launches"),
        (
            "memory's share",
            f"{total / reads / step:.0%}",
            f"{total / 1e6:.1f} MB of weights and KV cache at {reads / 1e9:.1f} GB/s",
        ),
    ]
    return rows


def _remark(one: Measured, kind: _Kind) -> str:
    first, count_ = kind.nodes[0], len(kind.nodes)
    parts = [f"{kind.seconds / one.step:5.1%} of the step"]
    if count_ > 1:
        parts.append(f"{count_} x {kind.seconds / count_ * 1e6:.1f} us")
    if first.bytes:
        parts.append(f"{sum(n.bytes for n in kind.nodes) / kind.seconds / 1e9:.1f} GB/s")
    shares = [share for node in kind.nodes if (share := one.share(node)) is not None]
    if shares:
        parts.append(f"{statistics.median(shares):.0%} of the limit")
    return ", ".join(parts)


def _as_json(one: Measured) -> dict[str, Any]:
    return {
        "batch": one.batch.name,
        "tokens": one.batch.num_tokens,
        "step_seconds": {mode.name: summary_json(seconds) for mode, seconds in one.modes.items()},
        "launches_seconds": summary_json(one.sums),
        "share_between_launches": one.between,
        "share_of_other_processes": one.others,
        "doubts": one.doubts,
        "limits": {
            "read_bytes_per_s": Summary.of(one.reads).median,
            "operations_per_s": {name: Summary.of(rates).median for name, rates in one.operations.items()},
        },
        "nodes": [
            {
                "kernel": node.kernel,
                "shape": node.shape,
                "seconds": node.seconds,
                "bytes": node.bytes,
                "operations": node.operations,
                "share_of_limit": one.share(node),
            }
            for node in one.nodes
        ],
    }
