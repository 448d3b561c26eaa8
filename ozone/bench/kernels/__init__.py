"""`ozone bench kernels`: each op, format and shape beside this machine's limit and beside torch.

Weights and KV caches rotate over copies that together are eight times the last-level cache, so that they come
from memory. The limit, our op and its peers take turns within every round.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ozone.bench.limits import PEAK_METHOD, PRODUCTS, READ_METHOD, Limits, last_level_cache_bytes
from ozone.bench.reporting import Reporter, add_report_arguments, header
from ozone.bench.statistics import Summary
from ozone.bench.workload import count
from ozone.compilation.artifact_file import DamagedArtifactError
from ozone.compilation.artifact_store import UnusableStoreError
from ozone.compilation.tuning.keeping import read, table_of
from ozone.config.command_line import ArgumentParser
from ozone.config.compilation_settings import default_cache_dir
from ozone.entrypoints.assemble import limit_torch_spinning
from ozone.errors import ConfigError
from ozone.native import library, set_ways
from ozone.platforms import cpu

if TYPE_CHECKING:
    from ozone.bench.kernels.cases import Case
    from ozone.bench.kernels.rounds import Plan, Rounds

_ROUNDS, _QUICK_ROUNDS = 15, 5
_SECONDS, _QUICK_SECONDS = 0.02, 0.005


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(
        prog="ozone bench kernels",
        description="Measure each op in every format and shape class: kernel launches alone, the call from\n"
        "Python, and torch's equivalents, beside the limit of this machine in the same rounds.",
    )
    add = parser.add_argument
    add(
        "--filter",
        action="append",
        default=[],
        metavar="TEXT",
        help="only cases whose name contains TEXT; several add up",
    )
    add("--list", action="store_true", help="print the names of the cases and stop")
    add("--quick", action="store_true", help=f"{_QUICK_ROUNDS} short rounds a case, not {_ROUNDS}")
    add("--rounds", type=count, metavar="N", help=f"rounds a case (default: {_ROUNDS})")
    add("--num-threads", "--threads", type=count, metavar="N", help="threads (default: the cores we may use)")
    add("--untuned", action="store_true", help="kernels take their default ways, whatever a start has chosen")
    add("-cc.cache_dir", dest="cache_dir", metavar="DIR", help="where starts keep what they have chosen")
    add("--isa", metavar="NAME", help="instruction set of our kernels (default: the best one here)")
    add_report_arguments(parser)
    namespace = parser.parse_args(argv)
    native = library()
    if native is None:
        raise ConfigError("ozone bench kernels measures the native library, which is not built: make install")
    if namespace.isa is not None:
        if namespace.isa not in native.isas():
            raise ConfigError(
                f"--isa {namespace.isa}: this machine and build have {', '.join(native.isas())}"
            )
        native.set_isa(namespace.isa)
    limit_torch_spinning()
    cases = _cases(namespace.filter)
    if namespace.list:
        print("\n".join(case.name for case in cases))
        return 0
    threads = namespace.num_threads or cpu.num_cores()
    _report(namespace, cases, threads, str(native.isa()))
    return 0


def _cases(filters: list[str]) -> list[Case]:
    from ozone.bench.kernels.cases import selected

    cases = selected(filters)
    if not cases:
        raise ConfigError(f"--filter {' --filter '.join(filters)}: no case has that in its name; see --list")
    return cases


def _plan(namespace: argparse.Namespace) -> Plan:
    from ozone.bench.kernels.rounds import Plan

    rounds = namespace.rounds or (_QUICK_ROUNDS if namespace.quick else _ROUNDS)
    return Plan(rounds, _QUICK_SECONDS if namespace.quick else _SECONDS)


def _report(namespace: argparse.Namespace, cases: list[Case], threads: int, isa: str) -> None:
    from ozone.bench.kernels.report import console_for, render

    plan = _plan(namespace)
    if not namespace.untuned:
        _take_kept_ways(Path(namespace.cache_dir or default_cache_dir()[0]), threads)
    reporter = Reporter(namespace.json)
    limits = Limits(threads)
    results = _measure(cases, limits, plan, threads, reporter)
    machine = {name: Summary.of(rates) for name, rates in _limits_now(limits).items()}
    title = f"{cpu.detect().cpu_model}, {isa}, {threads} threads, {plan.rounds} rounds, medians"
    stream = sys.stderr if namespace.json else sys.stdout
    console = console_for(stream.isatty(), stderr=namespace.json)
    render(title, results, console)
    console.print(_machine_line(machine))
    parameters = {"rounds": plan.rounds, "slice_seconds": plan.seconds, "num_threads": threads, "isa": isa}
    report: dict[str, Any] = {
        **header("kernels", parameters),
        "results": [
            {"op": case.op, "format": case.format, "shape": case.shape, **rounds.as_json()}
            for case, rounds in results
        ],
        "machine": {
            "cpu_model": cpu.detect().cpu_model,
            "last_level_cache_bytes": last_level_cache_bytes(),
            "buffer_bytes": limits.buffer_bytes,
            "read_method": READ_METHOD,
            "peak_method": PEAK_METHOD,
            "giga_per_s": {name: summary.as_json() for name, summary in machine.items()},
        },
    }
    reporter.finish_json(report)


def _take_kept_ways(directory: Path, threads: int) -> None:
    """As a start with tuning does, for shapes that one has measured here."""
    try:
        found = read(directory, threads)
    except (OSError, UnusableStoreError, DamagedArtifactError) as error:
        raise ConfigError(f"{directory}: {error}; remove it, or give --untuned") from None
    if found is not None:
        set_ways(table_of(found[1].choices.values()))


def _measure(
    cases: list[Case], limits: Limits, plan: Plan, threads: int, reporter: Reporter
) -> list[tuple[Case, Rounds]]:
    import torch

    from ozone.bench.kernels.rounds import measure

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    results = []
    with torch.inference_mode(), reporter.progress("kernels", len(cases)) as step:
        for case in cases:
            results.append((case, measure(case.prepare(), limits, plan)))
            step()
    return results


def _limits_now(limits: Limits) -> dict[str, list[float]]:
    """The machine's limits after all cases, in 10^9 bytes or operations a second."""
    limits.wake()
    return {
        "read": [limits.read() / 1e9 for _ in range(10)],
        **{product: [limits.peak(product) / 1e9 for _ in range(10)] for product in PRODUCTS},
    }


def _machine_line(machine: dict[str, Summary]) -> str:
    figures = ", ".join(
        f"{name} {summary.median:,.1f} ({summary.p10:,.1f} to {summary.p90:,.1f})"
        for name, summary in machine.items()
    )
    return f"limits at the end, G/s: {figures}; a spread with ! says that the machine was busy"
