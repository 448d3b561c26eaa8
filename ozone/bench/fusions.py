"""`ozone bench fusions`: what each fusion saves of a step, alone and together, with the steps in turns."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.statistics import Summary, summary_json
from ozone.bench.workload import count, random_token_ids
from ozone.config.args import DEFAULT_MODEL, EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.levels import FUSIONS
from ozone.config.resolve import resolve
from ozone.config.schema import CompilationMode, CUDAGraphMode, OzoneConfig, PassConfig
from ozone.engine.input_buffers import InputBuffers
from ozone.engine.runner import ScheduledRequest
from ozone.entrypoints.assemble import limit_torch_spinning
from ozone.entrypoints.console import start_logging
from ozone.errors import ConfigError
from ozone.native import platform_facts
from ozone.weights.model_files import ModelFiles, open_model

if TYPE_CHECKING:
    from ozone.compilation.compiled import CompiledStep
    from ozone.compilation.compiler import RangeProgram
    from ozone.engine.input_buffers import BatchCounts

FLAGS = tuple(
    key.rpartition(".")[2] for key in FUSIONS if not key.endswith(("eliminate_noops", "allreduce_rms"))
)
_ALL = "all that are on"
_SLICE_SECONDS = 0.04


class _Prompt(NamedTuple):
    """What the buffers read of a request."""

    token_ids: list[int]
    block_ids: list[int]


@dataclass
class Case:
    """One kind of batch, and how long its steps took, round by round.

    Attributes:
        plain: without any fusion.
        fused: by flag, with that one alone; and with all that the settings have on.
    """

    name: str
    scheduled: list[ScheduledRequest]
    plain: list[float] = field(default_factory=list)
    fused: dict[str, list[float]] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return sum(item.num_tokens for item in self.scheduled)

    def saved(self, flag: str) -> list[float]:
        """The share of a step that was saved, in each round."""
        return [1 - fused / plain for fused, plain in zip(self.fused[flag], self.plain, strict=True)]


class Variants:
    """One model whose step is compiled in several ways, over the same weights and caches."""

    def __init__(self, files: ModelFiles, config: OzoneConfig, cases: Sequence[Case]) -> None:
        import torch

        from ozone.compilation.step import Step, StepInputs
        from ozone.compilation.trace import trace
        from ozone.config.engine_settings import kv_cache_dtype
        from ozone.graphs.eager_runner import allocate_kv_caches
        from ozone.models import build_model, load_weights
        from ozone.native import set_num_threads
        from ozone.ops.choice import OpChoice

        threads, cache = config.parallel.num_threads, config.cache
        set_num_threads(threads)
        torch.set_num_threads(threads)
        self.model = build_model(
            files.config,
            dtype=getattr(torch, config.model.dtype),
            max_model_len=config.model.max_model_len,
            op=OpChoice(config.compilation.custom_ops, compiled=True),
            kv_cache_dtype=cache.kv_cache_dtype,
        )
        load_weights(self.model, files.open_weights(), num_threads=threads)
        blocks = 1 + max(
            block for case in cases for item in case.scheduled for block in item.request.block_ids
        )
        dtype = kv_cache_dtype(cache.kv_cache_dtype, config.model.dtype)
        self._step = Step(self.model, allocate_kv_caches(files.config, cache.block_size, blocks, dtype))
        self.buffers = InputBuffers(
            max_num_batched_tokens=max(case.num_tokens for case in cases),
            max_num_seqs=max(len(case.scheduled) for case in cases),
            max_model_len=config.model.max_model_len,
            block_size=cache.block_size,
        )
        arrays = (getattr(self.buffers, name) for name in StepInputs._fields)
        self._inputs = StepInputs(*map(torch.from_numpy, arrays))
        self._logits_indices = torch.from_numpy(self.buffers.logits_indices)
        self._config = config.compilation
        self._traced = trace(self._step, self._inputs)

    def compile(self, passes: PassConfig) -> tuple[CompiledStep, dict[str, int]]:
        """The step with these passes, and how many places each of them found."""
        from ozone.compilation.compiled import CompiledStep
        from ozone.compilation.compiler import compile_traced
        from ozone.compilation.lowering import Capacity

        capacity = Capacity(len(self._inputs.token_ids), len(self._inputs.seq_lens))
        config = dataclasses.replace(self._config, pass_config=passes)
        programs: Sequence[RangeProgram] = compile_traced(
            self._traced, self._step, self._inputs, config, capacity
        )
        places: dict[str, int] = {}
        for report in (report for program in programs for report in program.passes):
            places[report.flag] = max(report.places, places.get(report.flag, 0))
        return CompiledStep(programs, self._step, self._inputs), places

    def call(self, step: CompiledStep, counts: BatchCounts, mode: CUDAGraphMode) -> Callable[[], object]:
        """A step to its logits: everything but scheduling and sampling."""
        rows = self._logits_indices[: counts.num_logits]
        return lambda: self.model.compute_logits(step(counts, mode).index_select(0, rows))


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    namespace = _parser().parse_args(argv)
    args = engine_args(namespace)
    start_logging(logging.WARNING)  # the table says which fusions find nothing
    limit_torch_spinning()
    files, config = _resolved(args)
    reporter = Reporter(namespace.json)
    parameters = {name: getattr(namespace, name) for name in ("batch_sizes", "context_len", "prefill_len")}
    parameters["rounds"] = namespace.rounds
    cases = _cases(files, config, namespace.batch_sizes, namespace.context_len, namespace.prefill_len)
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
    group.add_argument(
        "--batch-sizes",
        type=_counts,
        default=[1, 8],
        metavar="N,N",
        help="requests that decode (default: 1,8)",
    )
    group.add_argument(
        "--context-len", type=count, default=128, metavar="N", help="their tokens so far (default: 128)"
    )
    group.add_argument(
        "--prefill-len", type=count, default=128, metavar="N", help="tokens of a prompt (default: 128)"
    )
    group.add_argument("--rounds", type=count, default=25, metavar="N", help="rounds (default: 25)")
    add_report_arguments(parser)
    add_engine_arguments(parser, model="both")
    return parser


def _counts(text: str) -> list[int]:
    try:
        return [count(word) for word in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; expected numbers with commas between") from None


def _resolved(args: EngineArgs) -> tuple[ModelFiles, OzoneConfig]:
    from ozone.graphs.choose import runs_programs

    files = open_model(args.model or DEFAULT_MODEL, revision=args.revision, download_dir=args.download_dir)
    platform = platform_facts()
    config = resolve(args, files.config, platform)
    compilation = config.compilation
    programs = runs_programs(compilation, native=platform.native)
    if compilation.mode is not CompilationMode.VLLM_COMPILE or not programs:
        raise ConfigError(
            "ozone bench fusions compares programs: it needs the native library, -O1 or above, and "
            "-cc.custom_ops=all"
        )
    return files, config


def _cases(
    files: ModelFiles, config: OzoneConfig, batch_sizes: Sequence[int], context: int, prefill: int
) -> list[Case]:
    """Requests in blocks of their own, which are the same in every case.

    Raises: `ConfigError` where they are longer than the model's context.
    """
    longest = max(context + 1, prefill)
    if longest > config.model.max_model_len:
        raise ConfigError(
            f"{longest} tokens are more than --max-model-len {config.model.max_model_len}: set --context-len "
            "and --prefill-len below it"
        )
    each = -(-longest // config.cache.block_size)
    vocabulary = range(files.config.vocab_size)
    prompts: list[Any] = [
        _Prompt(token_ids, list(range(each * i, each * (i + 1))))
        for i, token_ids in enumerate(
            random_token_ids(max(batch_sizes), longest, vocabulary, config.model.seed)
        )
    ]
    return [
        *(
            Case(f"decode, {n} at once", [ScheduledRequest(p, context, 1, "last") for p in prompts[:n]])
            for n in batch_sizes
        ),
        Case(f"prefill, {prefill} tokens", [ScheduledRequest(prompts[0], 0, prefill, "last")]),
    ]


def _measure(
    files: ModelFiles, config: OzoneConfig, cases: Sequence[Case], rounds: int, reporter: Reporter
) -> dict[str, int]:
    """Fill the cases; returns how many places each fusion has."""
    import torch

    from ozone.graphs.dispatcher import BatchDescriptor, Dispatcher

    variants = Variants(files, config, cases)
    configured = config.compilation.pass_config
    none = dataclasses.replace(configured, **dict.fromkeys(FLAGS, False))
    plain, _ = variants.compile(none)
    places: dict[str, int] = {}
    steps: dict[str, CompiledStep] = {}
    for flag in FLAGS:
        step, found = variants.compile(dataclasses.replace(none, **{flag: True}))
        places[flag] = found.get(flag, 0)
        if places[flag]:
            steps[flag] = step
    steps[_ALL], found = variants.compile(configured)
    places[_ALL] = sum(found.get(flag, 0) for flag in FLAGS)
    graphs = Dispatcher(config.compilation.cudagraph_mode, config.compilation.cudagraph_capture_sizes)
    with reporter.progress("fusions", rounds * len(cases)) as done, torch.inference_mode():
        for turn in range(rounds):
            for case in cases:
                counts = variants.buffers.fill(case.scheduled)
                mode, _ = graphs.dispatch(BatchDescriptor(counts.num_tokens, counts.num_requests))
                calls = {flag: variants.call(step, counts, mode) for flag, step in steps.items()}
                _round(case, variants.call(plain, counts, mode), calls, turn)
                done()
    return places


def _round(
    case: Case, plain: Callable[[], object], fused: Mapping[str, Callable[[], object]], turn: int
) -> None:
    """Everyone once, for the same number of steps, in an order that moves on from round to round."""
    repeats = max(1, int(_SLICE_SECONDS / _seconds(plain, 1)))
    contestants = [(plain, case.plain), *((call, case.fused.setdefault(f, [])) for f, call in fused.items())]
    first = turn % len(contestants)
    for call, times in contestants[first:] + contestants[:first]:
        call()
        times.append(_seconds(call, repeats))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


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
        rows.append((case.name, f"{plain.median * 1e3:.3f} ms", "a step without fusions"))
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
            {"case": case.name, "step_seconds_without_fusions": summary_json(case.plain), "fusions": fusions}
        )
    nothing = [flag for flag in FLAGS if not places[flag]]
    rows += [(f"  {flag}", "-", "no places in this model") for flag in nothing]
    report = {
        **header("fusions", parameters),
        "model": {
            "name": config.model.model,
            "dtype": config.model.dtype,
            "optimization_level": config.optimization_level,
            "num_threads": config.parallel.num_threads,
        },
        "results": results,
        "no_places": nothing,
    }
    title = (
        f"{config.model.model}, {config.model.dtype}, -O{config.optimization_level}, "
        f"{config.parallel.num_threads} threads: share of a step that each fusion saves"
    )
    reporter.finish(title, rows, report)


def _row(flag: str, places: int, saved: Sequence[float], times: Sequence[float]) -> Row:
    share, step = Summary.of(saved), Summary.of(times)
    # What may as well be nothing says so.
    doubt = "" if share.p10 * share.p90 > 0 else " !"
    return (
        f"  {flag}",
        f"{share.median:.1%}{doubt}",
        f"p10 {share.p10:.1%}, p90 {share.p90:.1%}; {places} places, step {step.median * 1e3:.3f} ms",
    )
