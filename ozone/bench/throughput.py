"""`ozone bench throughput`: many requests at once, as fast as the engine can."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ozone.bench.engine_load import RequestTimes, greedy, run_requests
from ozone.bench.loading import BenchModel, load_for_bench
from ozone.bench.machine import KIND_OF_DTYPE, Peak, measure_peak
from ozone.bench.model_cost import operations
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.statistics import summary_json
from ozone.bench.workload import (
    Prompt,
    add_iteration_arguments,
    add_length_arguments,
    add_prompt_arguments,
    random_token_ids,
    read_prompts,
    take,
)
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.entrypoints.console import start_logging


@dataclass(frozen=True)
class Load:
    """All requests of an iteration: `seconds` from the first submission to the last token."""

    seconds: float
    requests: list[RequestTimes]

    @property
    def prompt_tokens(self) -> int:
        return sum(request.prompt_tokens for request in self.requests)

    @property
    def output_tokens(self) -> int:
        return sum(request.output_tokens for request in self.requests)


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(
        prog="ozone bench throughput",
        description="Submit many requests at once and measure requests/s and tokens/s, beside the rate at\n"
        "which this machine multiplies matrices.",
    )
    add_length_arguments(parser, input_len=128, output_len=64)
    add_prompt_arguments(parser, num_prompts=32)
    add_iteration_arguments(parser, num_iters=3, num_iters_warmup=1)
    add_report_arguments(parser)
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    given = None if namespace.dataset_path is None else read_prompts(namespace.dataset_path)
    start_logging()
    reporter = Reporter(namespace.json)
    parameters: dict[str, Any] = {
        "num_prompts": namespace.num_prompts,
        "input_len": namespace.input_len if given is None else None,
        "output_len": namespace.output_len,
        "dataset_path": None if given is None else str(namespace.dataset_path),
        "num_iters": namespace.num_iters,
        "num_iters_warmup": namespace.num_iters_warmup,
    }
    model = load_for_bench(args, reporter)
    try:
        loads = _measure(model, parameters, given, reporter)
    finally:
        model.loaded.engine.shutdown()
    _report(model, loads, parameters, reporter)
    return 0


def _measure(
    model: BenchModel, parameters: dict[str, Any], given: list[Prompt] | None, reporter: Reporter
) -> list[Load]:
    number, seed = parameters["num_prompts"], model.loaded.config.model.seed
    warmup, loads = parameters["num_iters_warmup"], []
    total = warmup + parameters["num_iters"]
    if given is None:
        # Every iteration has prompts of its own, for a prefix cache that was asked for.
        vocabulary = range(model.geometry.vocab_size)
        prompts = random_token_ids(total * number, parameters["input_len"], vocabulary, seed)
    else:
        encode = model.loaded.tokenizer.encode
        once = [encode(prompt) if isinstance(prompt, str) else prompt for prompt in take(given, number)]
        prompts = once * total
    params = greedy(parameters["output_len"])
    with reporter.progress("tokens", total * number * parameters["output_len"]) as step:
        for index in range(total):
            begin = time.perf_counter()
            mine = prompts[index * number : (index + 1) * number]
            requests = run_requests(model.loaded.engine, mine, params, arrived=step)
            if index >= warmup:
                loads.append(Load(max(request.arrivals[-1] for request in requests) - begin, requests))
    return loads


def _report(model: BenchModel, loads: list[Load], parameters: dict[str, Any], reporter: Reporter) -> None:
    load = sorted(loads, key=lambda load: load.seconds)[(len(loads) - 1) // 2]
    peak = measure_peak(KIND_OF_DTYPE[model.loaded.config.model.dtype])
    scored = load.output_tokens
    tokens = load.prompt_tokens + load.output_tokens - len(load.requests)
    achieved = operations(model.geometry, tokens, scored) / load.seconds / 1e9
    share = achieved / peak.rates.median
    results: dict[str, Any] = {
        "elapsed_seconds": load.seconds,
        "iterations": summary_json([each.seconds for each in loads]),
        "prompt_tokens": load.prompt_tokens,
        "output_tokens": load.output_tokens,
        "requests_per_s": len(load.requests) / load.seconds,
        "prompt_tokens_per_s": load.prompt_tokens / load.seconds,
        "output_tokens_per_s": load.output_tokens / load.seconds,
        "products_gflop_per_s": achieved,
        "products_share": share,
    }
    report = {
        **header("throughput", parameters),
        "model": model.as_json(),
        "results": results,
        "machine": {"peak": peak.as_json()},
    }
    title = f"{model.title}: {len(load.requests)} requests, {load.prompt_tokens} tokens in, {scored} out"
    reporter.finish(title, _rows(results, peak, share), report)


def _rows(results: dict[str, Any], peak: Peak, share: float) -> list[Row]:
    products = f"{share:.0%} of {peak.rates.median:,.0f}, the peak of a {peak.kind} torch product here"
    all_ = results["iterations"]
    spread = f"{all_['min']:.2f} to {all_['max']:.2f} s in {all_['count']} iterations"
    return [
        ("elapsed", f"{results['elapsed_seconds']:.2f} s", spread),
        ("requests", f"{results['requests_per_s']:.2f} /s", ""),
        ("prompt tokens", f"{results['prompt_tokens_per_s']:,.1f} /s", ""),
        ("output tokens", f"{results['output_tokens_per_s']:,.1f} /s", ""),
        ("products", f"{results['products_gflop_per_s']:,.0f} GFLOP/s", products),
    ]
