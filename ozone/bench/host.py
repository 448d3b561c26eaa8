"""`ozone bench host`: what a step costs in Python: scheduling, inputs, sampling results, text."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ozone.bench.engine_load import greedy, run_requests
from ozone.bench.limits import Limits
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.statistics import Summary
from ozone.bench.steps import counts
from ozone.bench.workload import count, random_token_ids
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.resolve import resolve
from ozone.config.schema import OzoneConfig
from ozone.engine.engine import Engine
from ozone.engine.input_buffers import InputBuffers
from ozone.engine.runner import ScheduledRequest
from ozone.engine.sampling_table import SamplingTable
from ozone.engine.tokenizer import Tokenizer
from ozone.entrypoints.assemble import tokenizer_of
from ozone.errors import ConfigError
from ozone.native import library, platform_facts
from ozone.weights.model_files import open_model_of

_DESCRIPTION = """\
Measure what the host does for each decode step beside the model: the engine runs as always, with the model's
tokenizer, but its runner only fills the inputs and chooses tokens at random. In place of a model it reads
memory, so that caches are as cold as a step leaves them. Needs the native library; torch is not imported."""


_TOKENS = 4096


class RandomRunner:
    """Computes nothing. See `ozone.engine.runner.Runner`.

    Attributes:
        host: seconds between the end of a step and the next one's launches, by how many requests run.
    """

    def __init__(self, config: OzoneConfig, vocab_size: int, limits: Limits) -> None:
        self.block_size, self.vocab_size = config.cache.block_size, vocab_size
        seqs, length = config.scheduler.max_num_seqs, config.model.max_model_len
        self.num_blocks = seqs * -(-length // self.block_size)
        self.host: dict[int, list[float]] = {}
        self._ended: float | None = None
        self._num_steps = 0
        self._limits = limits
        self._buffers = InputBuffers(
            max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
            max_num_seqs=seqs,
            max_model_len=length,
            block_size=self.block_size,
        )
        self._logits = np.zeros((seqs, vocab_size), np.float32)
        self._token_ids = np.array(random.Random(0).choices(range(vocab_size), k=_TOKENS + seqs), np.int64)

    def execute(
        self, scheduled: list[ScheduledRequest], table: SamplingTable | None = None
    ) -> NDArray[np.float32]:
        """Random tokens, and logits of zeros."""
        rows = self._buffers.fill(scheduled).num_logits
        if self._ended is not None:
            gaps = self.host.setdefault(len(scheduled), [])
            gaps.append(time.perf_counter() - self._ended)
        self._limits.read()
        if table is not None:
            self._num_steps += 1
            first = self._num_steps % _TOKENS
            table.token_ids[:rows] = self._token_ids[first : first + rows]
            table.chosen = True
        self._ended = time.perf_counter()
        return self._logits[:rows]


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(prog="ozone bench host", description=_DESCRIPTION)
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--batch-sizes", type=counts, default=[1, 8, 32], metavar="N,N", help="requests (default: 1,8,32)"
    )
    group.add_argument("--output-len", type=count, default=256, metavar="N", help="steps (default: 256)")
    add_report_arguments(parser)
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    if library() is None:
        raise ConfigError("ozone bench host needs the native library, which is not built: run make")
    files = open_model_of(args)
    config = resolve(args, files.config, platform_facts())
    tokenizer = tokenizer_of(files, config)
    reporter = Reporter(namespace.json)
    results: dict[int, Summary] = {}
    limits = Limits(config.parallel.num_threads)
    with reporter.progress("batches", len(namespace.batch_sizes)) as done:
        for requests in namespace.batch_sizes:
            results[requests] = _measure(config, tokenizer, limits, requests, namespace.output_len)
            done()
    parameters = {name: getattr(namespace, name) for name in ("batch_sizes", "output_len")}
    report: dict[str, Any] = {
        **header("host", parameters),
        "model": config.model.model,
        "step_seconds": {str(requests): step.as_json() for requests, step in results.items()},
    }
    rows: list[Row] = [
        (
            f"{requests} running",
            f"{step.median * 1e6:.0f} us a step",
            f"p10 {step.p10 * 1e6:.0f}, p90 {step.p90 * 1e6:.0f}",
        )
        for requests, step in results.items()
    ]
    reporter.finish(f"{config.model.model}: a decode step, without the model", rows, report)
    return 0


def _measure(config: OzoneConfig, tokenizer: Tokenizer, limits: Limits, requests: int, steps: int) -> Summary:
    """Seconds between the launches of two steps, all requests running."""
    runner = RandomRunner(config, tokenizer.vocab_size, limits)
    engine = Engine(
        runner,
        tokenizer,
        cache=config.cache,
        scheduler=config.scheduler,
        max_model_len=config.model.max_model_len,
        eos_token_ids=(),
    )
    engine.start()
    try:
        prompts = random_token_ids(requests, 32, range(tokenizer.vocab_size), config.model.seed)
        run_requests(engine, prompts, greedy(steps))
    finally:
        engine.shutdown()
    return Summary.of(runner.host[requests][2:])
