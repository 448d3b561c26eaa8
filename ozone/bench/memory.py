"""`ozone bench memory`: peak resident memory of a server under load, and what it is made of."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from ozone.bench.child import engine_words
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.resident import resident_bytes
from ozone.bench.serve import Run, measure
from ozone.bench.serve_client import Target
from ozone.bench.serve_process import OwnServer
from ozone.bench.workload import add_length_arguments, count
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.errors import OzoneError

_ENDPOINT = "/v1/completions"
# What a server says of itself when it is ready: `MemoryUse.line`.
_SAID = re.compile(r"memory: weights ([\d.]+) MB, KV cache up to ([\d.]+) MB \((\d+) bytes a token\)")


@dataclass(frozen=True)
class Memory:
    """A server's memory, in bytes. `ready`, `end`: as `resident_bytes` has it, before and after the load."""

    weights: int
    kv_cache: int
    kv_token: int
    ready: dict[str, int]
    end: dict[str, int]

    def kv_used(self, tokens: int) -> int:
        """What so many different tokens made resident of the KV cache."""
        return min(tokens * self.kv_token, self.kv_cache)

    def rest(self, tokens: int) -> int:
        """The peak without weights and used KV cache: the interpreter, libraries, activations, copies."""
        return self.end["peak"] - self.weights - self.kv_used(tokens)


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code: 1 where a request failed."""
    parser = ArgumentParser(
        prog="ozone bench memory",
        description="Start a server, send it requests, and read from the system how much of its memory was\n"
        "resident at most: its weights, the part of the KV cache that was used, and the rest.",
    )
    own = [
        *add_length_arguments(parser, input_len=512, output_len=32),
        parser.add_argument(
            "--num-prompts", type=count, default=8, metavar="N", help="requests, all at once (default: 8)"
        ),
        add_report_arguments(parser),
    ]
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    engine_args(namespace)
    if not resident_bytes():
        raise OzoneError("ozone bench memory reads /proc/PID/status, which this system has not")
    reporter = Reporter(namespace.json)
    parameters = {name: getattr(namespace, name) for name in ("num_prompts", "input_len", "output_len")}
    load = {**parameters, "request_rate": None, "max_concurrency": None, "seed": 0}
    words = engine_words(argv, own)
    reporter.note("starting a server: ozone serve " + " ".join(words))
    with OwnServer(words) as server:
        ready = resident_bytes(server.pid)
        target = Target(server.base_url, _ENDPOINT, "", namespace.output_len, None)
        run = asyncio.run(measure(target, load, None, reporter))
        memory = _memory(server, ready)
    _report(memory, run, parameters, reporter)
    return 1 if run.failures else 0


def _memory(server: OwnServer, ready: dict[str, int]) -> Memory:
    said = next(match for line in server.lines if (match := _SAID.search(line)))
    weights, kv_cache = (int(float(megabytes) * 1e6) for megabytes in said.group(1, 2))
    return Memory(weights, kv_cache, int(said[3]), ready, resident_bytes(server.pid))


def _report(memory: Memory, run: Run, parameters: dict[str, Any], reporter: Reporter) -> None:
    tokens = sum(outcome.prompt_tokens + outcome.output_tokens for outcome in run.completed)
    results = {
        "completed": len(run.completed),
        "failed": len(run.outcomes) - len(run.completed),
        "tokens": tokens,
        "ready_bytes": memory.ready,
        "end_bytes": memory.end,
        "weight_bytes": memory.weights,
        "kv_cache_bytes": memory.kv_cache,
        "kv_cache_used_bytes": memory.kv_used(tokens),
        "rest_bytes": memory.rest(tokens),
    }
    title = f"{run.target.model}: {len(run.completed)} requests, {tokens} tokens"
    report = {**header("memory", parameters), "model": run.target.model, "results": results}
    reporter.finish(title, _rows(memory, tokens), report)


def _rows(memory: Memory, tokens: int) -> list[Row]:
    def megabytes(size: int) -> str:
        return f"{size / 1e6:,.0f} MB"

    ready, end = memory.ready, memory.end
    files = f"{megabytes(end['files'])} of it mapped files, which are shared"
    return [
        ("peak resident", megabytes(end["peak"]), f"when ready {megabytes(ready['peak'])}"),
        ("weights", megabytes(memory.weights), "as they are kept"),
        ("KV cache used", megabytes(memory.kv_used(tokens)), f"of {megabytes(memory.kv_cache)}"),
        ("rest of the peak", megabytes(memory.rest(tokens)), "interpreter, libraries, activations, copies"),
        ("resident at the end", megabytes(end["now"]), files),
    ]
