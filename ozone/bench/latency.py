"""`ozone bench latency`: how long one request takes, or one batch of equal requests that start together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ozone.bench.engine_load import RequestTimes, greedy, run_requests
from ozone.bench.loading import BenchModel, load_for_bench
from ozone.bench.machine import Bandwidth, ReadMeter
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header, milliseconds
from ozone.bench.statistics import Summary, summary_json
from ozone.bench.workload import add_iteration_arguments, add_length_arguments, count, random_token_ids
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.entrypoints.console import start_logging


@dataclass(frozen=True)
class Iteration:
    """One timed batch. `read`: the machine's reads right after it."""

    latency: float
    time_to_first_token: float
    steps_per_s: float | None
    read: Bandwidth

    @classmethod
    def of(cls, times: list[RequestTimes], read: Bandwidth) -> Iteration:
        begin = min(request.submitted for request in times)
        first = max(request.arrivals[0] for request in times)
        last = max(request.arrivals[-1] for request in times)
        # From the moment when every request has its first token, each step gives each request one.
        later = [sum(when > first for when in request.arrivals) for request in times]
        steps = max(later) / (last - first) if last > first else None
        return cls(last - begin, first - begin, steps, read)


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(
        prog="ozone bench latency",
        description="Measure one request after another: total latency, time to first token, decode rate,\n"
        "and the share of this machine's read bandwidth that decoding reaches by reading the weights.",
    )
    add_length_arguments(parser, input_len=32, output_len=128)
    group = parser.add_argument_group("requests")
    group.add_argument(
        "--batch-size", type=count, default=1, metavar="N", help="requests at a time (default: 1)"
    )
    add_iteration_arguments(parser, num_iters=10, num_iters_warmup=2)
    add_report_arguments(parser)
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    start_logging()
    reporter = Reporter(namespace.json)
    parameters = {
        name: getattr(namespace, name)
        for name in ("input_len", "output_len", "batch_size", "num_iters", "num_iters_warmup")
    }
    model = load_for_bench(args, reporter)
    try:
        iterations = _measure(model, parameters, reporter)
    finally:
        model.loaded.engine.shutdown()
    _report(model, iterations, parameters, reporter)
    return 0


def _measure(model: BenchModel, parameters: dict[str, int], reporter: Reporter) -> list[Iteration]:
    engine, config = model.loaded.engine, model.loaded.config
    warmup, batch = parameters["num_iters_warmup"], parameters["batch_size"]
    total = warmup + parameters["num_iters"]
    # Every iteration has prompts of its own, for a prefix cache that was asked for.
    prompts = random_token_ids(
        total * batch, parameters["input_len"], range(model.geometry.vocab_size), config.model.seed
    )
    params = greedy(parameters["output_len"])
    meter = ReadMeter(config.parallel.num_threads)
    iterations = []
    with reporter.progress("latency", total) as step:
        for index in range(total):
            times = run_requests(engine, prompts[index * batch : (index + 1) * batch], params)
            if index >= warmup:
                iterations.append(Iteration.of(times, meter.measure(0.05)))
            step()
    meter.close()
    return iterations


def _report(
    model: BenchModel, iterations: list[Iteration], parameters: dict[str, int], reporter: Reporter
) -> None:
    weight_bytes = model.loaded.memory.step_weights
    batch = parameters["batch_size"]
    latencies = [run.latency for run in iterations]
    firsts = [run.time_to_first_token for run in iterations]
    timed = [(run.steps_per_s, run.read.passes.median) for run in iterations if run.steps_per_s is not None]
    rates = [steps * batch for steps, _ in timed]
    shares = [steps * weight_bytes / 1e9 / read for steps, read in timed]
    reads = [run.read.passes.median for run in iterations]
    results: dict[str, Any] = {
        "latency_seconds": summary_json(latencies),
        "time_to_first_token_seconds": summary_json(firsts),
        "decode_tokens_per_s": summary_json(rates),
        "weight_bytes_per_step": weight_bytes,
        "weight_read_share": summary_json(shares),
    }
    machine = {"read_bandwidth_gb_per_s": summary_json(reads), "method": iterations[0].read.method}
    report = {
        **header("latency", parameters),
        "model": model.as_json(),
        "results": results,
        "machine": machine,
    }
    rows: list[Row] = [
        _row("total latency", latencies),
        _row("time to first token", firsts),
    ]
    if timed:
        rate, share, read = Summary.of(rates), Summary.of(shares), Summary.of(reads)
        limit = read.median * 1e9 / weight_bytes * batch
        rows += [
            (
                "decode",
                f"{rate.median:.1f} tokens/s",
                f"p10 {rate.p10:.1f}, p90 {rate.p90:.1f}; reading the weights allows {limit:.1f}",
            ),
            (
                "weights read",
                f"{share.median:.0%} of the limit",
                f"{weight_bytes / 1e6:.1f} MB a step; memory read {read.median:.1f} GB/s in the same seconds",
            ),
        ]
    title = (
        f"{model.title}: {batch} x {parameters['input_len']} tokens in, {parameters['output_len']} out, "
        f"{len(iterations)} iterations"
    )
    reporter.finish(title, rows, report)


def _row(name: str, seconds: list[float]) -> Row:
    summary = Summary.of(seconds)
    remark = f"median; p10 {milliseconds(summary.p10)}, p90 {milliseconds(summary.p90)}"
    return name, milliseconds(summary.median), remark
