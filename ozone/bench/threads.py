"""`ozone bench threads`: the tails of kernel launches and torch's products while both thread pools are alive.

Each of them needs every core, so that one core that the system takes away for a moment delays it. How often
the machine does that by itself is measured too: by processes that only read the clock, one on each core.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.statistics import percentile
from ozone.bench.workload import count
from ozone.config.command_line import ArgumentParser
from ozone.entrypoints.assemble import limit_torch_spinning
from ozone.errors import ConfigError
from ozone.native import allocate, kernel, library
from ozone.platforms import cpu

LONG = 1e-3
"""Seconds from which on something counts as long."""

_ROUNDS, _SECONDS = 20, 0.25
_TOKENS, _COLS = 64, 2048  # of the norm that is launched: 1 MB read and written, work for every thread
_PRODUCT = 512  # columns and rows of torch's product
# Longer than torch's threads spin after a product (GOMP_SPINCOUNT).
_ASLEEP = 0.001

_SPIN = """
import gc, json, os, sys, time
cpu, seconds, unit = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
os.sched_setaffinity(0, {cpu})
gc.disable()
clock, times = time.perf_counter, []
print("ready", flush=True)
sys.stdin.readline()
last = clock()
end = last + seconds
while last < end:
    begin = last
    while last - begin < unit:
        last = clock()
    times.append(last - begin)
sys.stdin.readline()
json.dump(times, sys.stdout)
"""


@dataclass
class Tail:
    """How long something took each time, in seconds, over `measured` seconds in which it was repeated."""

    times: list[float] = field(default_factory=list)
    measured: float = 0.0

    @property
    def long_per_s(self) -> float:
        """How many a second took `LONG` or more."""
        return sum(seconds >= LONG for seconds in self.times) / self.measured

    def as_json(self) -> dict[str, float]:
        return {
            "count": len(self.times),
            "median_seconds": percentile(self.times, 50),
            "p99_seconds": percentile(self.times, 99),
            "p99_9_seconds": percentile(self.times, 99.9),
            "max_seconds": max(self.times),
            "long_per_s": self.long_per_s,
        }


def machine_stalls(cpus: Sequence[int], seconds: float, unit: float) -> list[float]:
    """Seconds that each `unit` seconds took a process that reads the clock, on all of `cpus` at once."""
    run = [sys.executable, "-I", "-S", "-c", _SPIN]
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [*run, str(number), str(seconds), str(unit)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in cpus
        ]
        # They begin together and answer together, so that none is disturbed by what another does then.
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise RuntimeError("a process that reads the clock has failed; its message is above")
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        time.sleep(seconds + _ASLEEP)
        return [taken for child in children for taken in json.loads(child.communicate("\n")[0])]


class Contest:
    """A launch and a product, alone and in turns, with what the machine does to either."""

    def __init__(self, threads: int) -> None:
        """Sizes both pools to `threads`. Needs the native library."""
        import torch
        from torch.nn import functional

        native = library()
        assert native is not None
        native.set_num_threads(threads)
        torch.set_num_threads(threads)
        self._cpus = sorted(os.sched_getaffinity(0))[:threads]
        memory = [allocate("bench", _TOKENS * _COLS * 4).view(np.float32) for _ in range(2)]
        memory[1][:] = 1
        weight = allocate("bench", _COLS * 4).view(np.float32)
        self._kept = [*memory, weight]
        norm = kernel("rms_norm")
        fields = (*(array.ctypes.data for array in self._kept), _TOKENS, 1, _COLS, _COLS, _COLS, 1e-5, 0)
        self._launch: Callable[[], object] = lambda: norm(*fields)
        x, w = torch.ones(_TOKENS, _PRODUCT), torch.ones(_PRODUCT, _PRODUCT)
        self._multiply: Callable[[], object] = lambda: functional.linear(x, w)
        self.machine, self.launches, self.products = Tail(), Tail(), Tail()
        self.launches_in_turns, self.products_in_turns = Tail(), Tail()
        for _ in range(100):
            self._launch()
            self._multiply()

    def round(self, seconds: float) -> None:
        """Everything for so many seconds each."""
        with _no_garbage_collection():
            time.sleep(_ASLEEP)
            _repeat([(self._launch, self.launches)], seconds)
            _repeat([(self._multiply, self.products)], seconds)
            turns = [(self._launch, self.launches_in_turns), (self._multiply, self.products_in_turns)]
            _repeat(turns, seconds)
            time.sleep(_ASLEEP)
            unit = percentile(self.launches.times, 50)
            self.machine.times += machine_stalls(self._cpus, seconds, unit)
            self.machine.measured += seconds


def _repeat(calls: Sequence[tuple[Callable[[], object], Tail]], seconds: float) -> None:
    clock = time.perf_counter
    begin = clock()
    last = begin
    while last - begin < seconds:
        for call, tail in calls:
            started = clock()
            call()
            last = clock()
            tail.times.append(last - started)
    for _, tail in calls:
        tail.measured += last - begin


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection takes milliseconds, of this process and not of its threads."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    namespace = _parse(argv)
    if library() is None:
        raise ConfigError("ozone bench threads measures the native library, which is not built: make install")
    limit_torch_spinning()
    threads = namespace.num_threads or cpu.num_cores()
    reporter = Reporter(namespace.json)
    contest = Contest(threads)
    with reporter.progress("threads", namespace.rounds) as step:
        for _ in range(namespace.rounds):
            contest.round(_SECONDS)
            step()
    tails = {
        "machine": contest.machine,
        "launches": contest.launches,
        "launches_in_turns": contest.launches_in_turns,
        "products": contest.products,
        "products_in_turns": contest.products_in_turns,
    }
    parameters = {"num_threads": threads, "rounds": namespace.rounds, "slice_seconds": _SECONDS}
    report: dict[str, Any] = {
        **header("threads", parameters),
        "cpu_model": cpu.detect().cpu_model,
        "long_seconds": LONG,
        "tails": {name: tail.as_json() for name, tail in tails.items()},
    }
    names = ("the machine alone", "launches", "launches, in turns", "products", "products, in turns")
    rows = [_row(name, tail) for name, tail in zip(names, tails.values(), strict=True)]
    title = f"{cpu.detect().cpu_model}, {threads} threads: median, 99.9%, longest"
    reporter.finish(title, rows, report)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="ozone bench threads",
        description="Measure how long kernel launches and torch's products take at worst, alone and in\n"
        "turns with both thread pools alive, beside what this machine does to a process that only\n"
        "reads the clock.",
    )
    parser.add_argument(
        "--num-threads", "--threads", type=count, metavar="N", help="threads (default: the cores we may use)"
    )
    parser.add_argument(
        "--rounds", type=count, default=_ROUNDS, metavar="N", help=f"of a second each (default: {_ROUNDS})"
    )
    add_report_arguments(parser)
    return parser.parse_args(argv)


def _row(name: str, tail: Tail) -> Row:
    times = (percentile(tail.times, percent) * 1e6 for percent in (50, 99.9, 100))
    figure = " ".join(f"{microseconds:8,.0f}" for microseconds in times) + " us"
    return (
        name,
        figure,
        f"{tail.long_per_s:.2f} a second of {LONG * 1e3:.0f} ms or more; {len(tail.times):,} in all",
    )
