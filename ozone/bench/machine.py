"""`ozone bench machine`: this machine's limits, which other figures are stated against.

Read bandwidth bounds decoding, which reads every weight for every token; the peak of products bounds
prefill. Reading is measured with NumPy and needs no torch; the products are torch's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.statistics import Summary
from ozone.bench.workload import count
from ozone.config.command_line import ArgumentParser
from ozone.platforms import cpu

READ_METHOD = "numpy bitwise_or.reduce over int64, one thread per core"
PRODUCT_METHOD = "torch product"
_MIN_BUFFER = 128 << 20
_UNKNOWN_CACHE = 64 << 20
_MAX_SHARE_OF_MEMORY = 4
_LARGEST_PRODUCT = 2048


def last_level_cache_bytes(root: Path = Path("/")) -> int | None:
    """Bytes of the largest cache that the first core sees, or None where the system does not say."""
    found = []
    for size in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = size.read_text(encoding="ascii").strip()
        number, unit = text[:-1], text[-1:]
        if number.isdigit() and unit in _UNITS:
            found.append(int(number) * _UNITS[unit])
    return max(found, default=None)


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Bandwidth:
    """Reads of one buffer: `passes` is in GB/s (10^9 bytes), `buffer_bytes` is what one pass reads."""

    passes: Summary
    buffer_bytes: int
    threads: int

    def as_json(self) -> dict[str, Any]:
        return {
            "median": self.passes.median,
            "max": self.passes.maximum,
            "passes": self.passes.count,
            "buffer_bytes": self.buffer_bytes,
            "threads": self.threads,
            "method": READ_METHOD,
        }


class ReadMeter:
    """Streams through a buffer that no cache holds. Keep one to pair figures with a read of the same second.

    The reduction is one load and one OR a vector, which is as fast as a loop of vector loads in C.
    """

    def __init__(self, threads: int | None = None) -> None:
        """`threads` default to the cores this process may use."""
        self.threads = threads or cpu.num_cores()
        wanted = max(_MIN_BUFFER, 4 * (last_level_cache_bytes() or _UNKNOWN_CACHE))
        available = cpu.detect().available_bytes
        self.buffer_bytes = min(wanted, max(available // _MAX_SHARE_OF_MEMORY, _MIN_BUFFER))
        # Ones, since untouched zeros would all be read from one page of the system.
        buffer: NDArray[np.int64] = np.ones(self.buffer_bytes // 8, dtype=np.int64)
        self._parts = np.array_split(buffer, self.threads)
        self._pool = ThreadPoolExecutor(self.threads)
        self._pass()

    def _pass(self) -> float:
        begin = time.perf_counter()
        for _ in self._pool.map(np.bitwise_or.reduce, self._parts):
            pass
        return self.buffer_bytes / (time.perf_counter() - begin) / 1e9

    def measure(self, seconds: float = 0.1) -> Bandwidth:
        """Read again and again for about `seconds`, at least three times."""
        end = time.perf_counter() + seconds
        rates = [self._pass() for _ in range(3)]
        while time.perf_counter() < end:
            rates.append(self._pass())
        return Bandwidth(Summary.of(rates), self.buffer_bytes, self.threads)

    def close(self) -> None:
        """Give the buffer and the threads back."""
        self._pool.shutdown()
        self._parts = []


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
    size: int
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
            "method": PRODUCT_METHOD,
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
    return Peak(kind, Summary.of(rates), size, how)


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
_KINDS = ("bf16", "int8", "fp32")


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
    with reporter.progress("machine", 1 + len(_KINDS)) as step:
        bandwidth = measure_read_bandwidth(threads)
        step()
        import torch

        torch.set_num_threads(threads)
        peaks = []
        for kind in _KINDS:
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
        "peaks": {peak.kind: peak.as_json() for peak in peaks},
    }
    reporter.finish(f"{facts.cpu_model}, {facts.isa}, {threads} threads", _rows(bandwidth, peaks), report)
    return 0


def _rows(bandwidth: Bandwidth, peaks: list[Peak]) -> list[Row]:
    reads = bandwidth.passes
    rows = [
        (
            "memory read",
            f"{reads.median:.1f} GB/s",
            f"median of {reads.count} passes over {bandwidth.buffer_bytes >> 20} MiB, "
            f"best {reads.maximum:.1f}; {READ_METHOD}",
        )
    ]
    for peak in peaks:
        remark = f"median, best {peak.rates.maximum:,.0f}; {PRODUCT_METHOD}, {peak.how}, {peak.size} square"
        rows.append((f"{peak.kind} products", f"{peak.rates.median:,.0f} {peak.unit}", remark))
    return rows
