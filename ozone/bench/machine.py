"""`ozone bench machine`: this machine's limits, which other figures are stated against.

Read bandwidth bounds decoding, which reads every weight for every token; the peak of products bounds
prefill: in registers, which is the limit, and as torch's products reach it. What needs no torch does without.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ozone.bench.limits import (
    PEAK_METHOD,
    PRODUCTS,
    READ_METHOD,
    Limits,
    beyond_cache_bytes,
    last_level_cache_bytes,
)
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.statistics import Summary
from ozone.bench.workload import count
from ozone.config.command_line import ArgumentParser
from ozone.native import library
from ozone.platforms import cpu

PRODUCT_METHOD = "torch product"
_NUMPY_METHOD = "numpy bitwise_or.reduce over int64, one thread per core"
_LARGEST_PRODUCT = 2048


@dataclass(frozen=True)
class Bandwidth:
    """Reads of one buffer: `passes` is in GB/s (10^9 bytes), `buffer_bytes` is what one pass reads."""

    passes: Summary
    buffer_bytes: int
    threads: int
    method: str

    def as_json(self) -> dict[str, Any]:
        return {
            "median": self.passes.median,
            "max": self.passes.maximum,
            "passes": self.passes.count,
            "buffer_bytes": self.buffer_bytes,
            "threads": self.threads,
            "method": self.method,
        }


class ReadMeter:
    """Streams through a buffer that no cache holds. Keep one to pair figures with a read of the same second.

    Reads with the native library's team or, where that is not built, with a reduction of NumPy: one load and
    one OR a vector.
    """

    def __init__(self, threads: int | None = None, *, native: bool | None = None) -> None:
        """`threads` default to the cores this process may use."""
        self.threads = threads or cpu.num_cores()
        use_native = (library() is not None) if native is None else native
        self.method = READ_METHOD if use_native else _NUMPY_METHOD
        self._stream: Limits | _NumpyStream
        self._stream = Limits(self.threads) if use_native else _NumpyStream(self.threads)
        self.buffer_bytes = self._stream.buffer_bytes
        self._stream.read()

    def measure(self, seconds: float = 0.1) -> Bandwidth:
        """Read again and again for about `seconds`, at least three times."""
        end = time.perf_counter() + seconds
        rates = [self._stream.read() / 1e9 for _ in range(3)]
        while time.perf_counter() < end:
            rates.append(self._stream.read() / 1e9)
        return Bandwidth(Summary.of(rates), self.buffer_bytes, self.threads, self.method)

    def close(self) -> None:
        """Give the buffer and the threads back."""
        del self._stream


class _NumpyStream:
    """As fast as a loop of vector loads in C, and built everywhere."""

    def __init__(self, threads: int) -> None:
        self.buffer_bytes = beyond_cache_bytes()
        # Ones, since untouched zeros would all be read from one page of the system.
        buffer: NDArray[np.int64] = np.ones(self.buffer_bytes // 8, dtype=np.int64)
        self._parts = np.array_split(buffer, threads)
        self._pool = ThreadPoolExecutor(threads)

    def read(self) -> float:
        """Bytes read a second, in one pass over the buffer."""
        begin = time.perf_counter()
        for _ in self._pool.map(np.bitwise_or.reduce, self._parts):
            pass
        return self.buffer_bytes / (time.perf_counter() - begin)


def measure_read_bandwidth(threads: int | None = None, seconds: float = 1.0) -> Bandwidth:
    """Read bandwidth of this machine's memory, all threads together."""
    meter = ReadMeter(threads)
    try:
        return meter.measure(seconds)
    finally:
        meter.close()


@dataclass(frozen=True)
class Peak:
    """Rate of one kind of product. `rates`: 10^9 operations a second, a multiply-add counts as two."""

    kind: str
    rates: Summary
    size: int | None
    method: str
    how: str

    @property
    def unit(self) -> str:
        return "GOP/s" if self.kind == "int8" else "GFLOP/s"

    def as_json(self) -> dict[str, Any]:
        return {
            "median": self.rates.median,
            "max": self.rates.maximum,
            "unit": self.unit,
            "size": self.size,
            "method": self.method,
            "how": self.how,
        }


def measure_peak(kind: str, seconds: float = 0.8) -> Peak:
    """Rate of square products of one `kind` (``bf16``, ``fp16``, ``fp32``, ``int8``) on torch's threads.

    The matrices grow until one product takes a while, so that neither a launch nor a slow machine decides.
    """
    size = 256
    run, how = _product(kind, size)
    # Twice the size is eight times the work.
    while size < _LARGEST_PRODUCT and 8 * min(_seconds(run) for _ in range(4)) < seconds / 3:
        size *= 2
        run, how = _product(kind, size)
    run()
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < 3 or time.perf_counter() < end:
        rates.append(2 * size**3 / _seconds(run) / 1e9)
    return Peak(kind, Summary.of(rates), size, PRODUCT_METHOD, how)


def measure_limit(limits: Limits, kind: str, seconds: float = 0.3) -> Peak:
    """Rate of multiply-adds of one `kind` in registers: what no product can exceed."""
    limits.wake()
    end = time.perf_counter() + seconds
    rates = [limits.peak(kind) / 1e9 for _ in range(3)]
    while time.perf_counter() < end:
        rates.append(limits.peak(kind) / 1e9)
    return Peak(kind, Summary.of(rates), None, PEAK_METHOD, "no memory involved")


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _product(kind: str, size: int) -> tuple[Callable[[], object], str]:
    import torch

    if kind == "int8":
        left = torch.randint(-127, 127, (size, size), dtype=torch.int8)
        right = torch.randint(-127, 127, (size, size), dtype=torch.int8)
        return lambda: torch._int_mm(left, right), "torch._int_mm"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[kind]
    x, weight = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return lambda: torch.nn.functional.linear(x, weight), "torch.nn.functional.linear"


KIND_OF_DTYPE = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(
        prog="ozone bench machine",
        description="Measure this machine's limits: memory read bandwidth, and the peak rate of products.\n"
        "Takes under ten seconds. Figures of a busy machine are too low: look at the spread.",
    )
    parser.add_argument(
        "--num-threads", type=count, metavar="N", help="threads (default: the cores we may use)"
    )
    add_report_arguments(parser)
    namespace = parser.parse_args(argv)
    facts = cpu.detect()
    threads = namespace.num_threads or facts.num_cores
    reporter = Reporter(namespace.json)
    limits: list[Peak] = []
    with reporter.progress("machine", 1 + 2 * len(PRODUCTS)) as step:
        bandwidth = measure_read_bandwidth(threads)
        step()
        if library() is not None:
            team = Limits(threads)
            for kind in PRODUCTS:
                limits.append(measure_limit(team, kind))
                step()
        import torch

        torch.set_num_threads(threads)
        peaks = []
        for kind in PRODUCTS:
            peaks.append(measure_peak(kind))
            step()
    report = {
        **header("machine", {"num_threads": threads}),
        "cpu_model": facts.cpu_model,
        "isa": facts.isa,
        "num_cores": facts.num_cores,
        "memory_bytes": facts.memory_bytes,
        "last_level_cache_bytes": last_level_cache_bytes(),
        "read_bandwidth_gb_per_s": bandwidth.as_json(),
        "limits": {peak.kind: peak.as_json() for peak in limits},
        "peaks": {peak.kind: peak.as_json() for peak in peaks},
    }
    reporter.finish(
        f"{facts.cpu_model}, {facts.isa}, {threads} threads", _rows(bandwidth, limits + peaks), report
    )
    return 0


def _rows(bandwidth: Bandwidth, peaks: list[Peak]) -> list[Row]:
    reads = bandwidth.passes
    rows = [
        (
            "memory read",
            f"{reads.median:.1f} GB/s",
            f"median of {reads.count} passes over {bandwidth.buffer_bytes >> 20} MiB, "
            f"best {reads.maximum:.1f}; {bandwidth.method}",
        )
    ]
    for peak in peaks:
        square = "" if peak.size is None else f", {peak.size} square"
        remark = f"median, best {peak.rates.maximum:,.0f}; {peak.method}, {peak.how}{square}"
        rows.append((f"{peak.kind} products", f"{peak.rates.median:,.0f} {peak.unit}", remark))
    return rows
