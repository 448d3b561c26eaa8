"""`ozone bench fusions`: what each fusion saves of a step, alone and together, with the steps in turns."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ozone.bench.reporting import Reporter, Row, add_report_arguments, header, model_report, model_title
from ozone.bench.statistics import Summary, summary_json
from ozone.bench.steps import (
    Batch,
    Steps,
    add_batch_arguments,
    make_batches,
    resolve_programs,
    seconds_of,
)
from ozone.bench.workload import count
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.levels import FUSIONS
from ozone.config.schema import OzoneConfig, PassConfig
from ozone.entrypoints.assemble import limit_torch_spinning
from ozone.entrypoints.console import start_logging
from ozone.weights.model_files import ModelFiles

if TYPE_CHECKING:
    from ozone.compilation.compiled import CompiledStep

FLAGS = tuple(
    key.rpartition(".")[2] for key in FUSIONS if not key.endswith(("eliminate_noops", "allreduce_rms"))
)
_ALL = "all that are on"
_SLICE_SECONDS = 0.04


@dataclass
class Case:
    """One kind of batch, and how long its steps took, round by round.

    Attributes:
        plain: without any fusion.
        fused: by flag, with that one alone; and with all that the settings have on.
    """

    batch: Batch
    plain: list[float] = field(default_factory=list)
    fused: dict[str, list[float]] = field(default_factory=dict)

    def saved(self, flag: str) -> list[float]:
        """The share of a step that was saved, in each round."""
        return [1 - fused / plain for fused, plain in zip(self.fused[flag], self.plain, strict=True)]


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    namespace = _parser().parse_args(argv)
    args = engine_args(namespace)
    start_logging(logging.WARNING)  # the table says which fusions find nothing
    limit_torch_spinning()
    files, config = resolve_programs(args, "ozone bench fusions")
    reporter = Reporter(namespace.json)
    parameters = {name: getattr(namespace, name) for name in ("batch_sizes", "context_len", "prefill_len")}
    parameters["rounds"] = namespace.rounds
    batches = make_batches(files, config, namespace.batch_sizes, namespace.context_len, namespace.prefill_len)
    cases = [Case(batch) for batch in batches]
    places = _measure(files, config, cases, namespace.rounds, reporter)
    _report(config, cases, places, parameters, reporter)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ozone bench fusions",
        description="Measure what each fusion saves of a step: the step with that fusion alone, the step\n"
        "with all that are on, and the step with none, in turns. The benchmark switches them itself.",
    )
    group = parser.add_argument_group("measurement")
    add_batch_arguments(group)
    group.add_argument("--rounds", type=count, default=25, metavar="N", help="rounds (default: 25)")
    add_report_arguments(parser)
    add_engine_arguments(parser, model="both")
    return parser


def _measure(
    files: ModelFiles, config: OzoneConfig, cases: Sequence[Case], rounds: int, reporter: Reporter
) -> dict[str, int]:
    """Fill the cases; returns how many places each fusion has."""
    import torch

    from ozone.graphs.dispatcher import BatchDescriptor, Dispatcher

    model = Steps(files, config, [case.batch for case in cases])

    def compiled(passes: PassConfig) -> tuple[CompiledStep, dict[str, int]]:
        """The step with these passes, and how many places each of them found."""
        programs = model.compile(passes)
        places: dict[str, int] = {}
        for report in (report for program in programs for report in program.passes):
            places[report.flag] = max(report.places, places.get(report.flag, 0))
        return model.bind(programs), places

    configured = config.compilation.pass_config
    none = dataclasses.replace(configured, **dict.fromkeys(FLAGS, False))
    plain, _ = compiled(none)
    places: dict[str, int] = {}
    steps: dict[str, CompiledStep] = {}
    for flag in FLAGS:
        step, found = compiled(dataclasses.replace(none, **{flag: True}))
        places[flag] = found.get(flag, 0)
        if places[flag]:
            steps[flag] = step
    steps[_ALL], found = compiled(configured)
    places[_ALL] = sum(found.get(flag, 0) for flag in FLAGS)
    graphs = Dispatcher(config.compilation.cudagraph_mode, config.compilation.cudagraph_capture_sizes)
    with reporter.progress("fusions", rounds * len(cases)) as done, torch.inference_mode():
        for turn in range(rounds):
            for case in cases:
                counts = model.buffers.fill(case.batch.scheduled)
                mode, _ = graphs.dispatch(BatchDescriptor(counts.num_tokens, counts.num_requests))
                calls = {flag: model.call(step, counts, mode) for flag, step in steps.items()}
                _round(case, model.call(plain, counts, mode), calls, turn)
                done()
    return places


def _round(
    case: Case, plain: Callable[[], object], fused: Mapping[str, Callable[[], object]], turn: int
) -> None:
    """Everyone once, for the same number of steps, in an order that moves on from round to round."""
    repeats = max(1, int(_SLICE_SECONDS / seconds_of(plain, 1)))
    contestants = [(plain, case.plain), *((call, case.fused.setdefault(f, [])) for f, call in fused.items())]
    first = turn % len(contestants)
    for call, times in contestants[first:] + contestants[:first]:
        call()
        times.append(seconds_of(call, repeats))


def _report(
    config: OzoneConfig,
    cases: Sequence[Case],
    places: Mapping[str, int],
    parameters: dict[str, Any],
    reporter: Reporter,
) -> None:
    rows: list[Row] = []
    results: list[dict[str, Any]] = []
    for case in cases:
        plain = Summary.of(case.plain)
        rows.append((case.batch.name, f"{plain.median * 1e3:.3f} ms", "a step without fusions"))
        fusions = []
        for flag, times in case.fused.items():
            saved = case.saved(flag)
            rows.append(_row(flag, places[flag], saved, times))
            fusions.append(
                {
                    "flag": None if flag == _ALL else flag,
                    "places": places[flag],
                    "step_seconds": summary_json(times),
                    "saved_share": summary_json(saved),
                }
            )
        results.append(
            {
                "case": case.batch.name,
                "step_seconds_without_fusions": summary_json(case.plain),
                "fusions": fusions,
            }
        )
    nothing = [flag for flag in FLAGS if not places[flag]]
    rows += [(f"  {flag}", "-", "no places in this model") for flag in nothing]
    report = {
        **header("fusions", parameters),
        "model": model_report(config),
        "results": results,
        "no_places": nothing,
    }
    reporter.finish(f"{model_title(config)}: share of a step that each fusion saves", rows, report)


def _row(flag: str, places: int, saved: Sequence[float], times: Sequence[float]) -> Row:
    share, step = Summary.of(saved), Summary.of(times)
    # What may as well be nothing says so.
    doubt = "" if share.p10 * share.p90 > 0 else " !"
    return (
        f"  {flag}",
        f"{share.median:.1%}{doubt}",
        f"p10 {share.p10:.1%}, p90 {share.p90:.1%}; {places} places, step {step.median * 1e3:.3f} ms",
    )
