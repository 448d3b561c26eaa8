"""This machine's limits as the native thread team reaches them: a stream read, products in registers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ozone.native import allocate, kernel, library
from ozone.platforms import cpu

READ_METHOD = "native stream read on the thread team"
PEAK_METHOD = "native multiply-adds in registers, on the thread team"

PRODUCTS = {"bf16": 1, "int8": 2, "fp32": 0}
"""Kinds of multiply-adds, with their codes in ``csrc/kernels/machine.h``."""

_MIN_BUFFER = 256 << 20
_UNKNOWN_CACHE = 64 << 20
_MAX_SHARE_OF_MEMORY = 4
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# One measurement of a peak: long beside a launch, short beside the time in which a machine slows down.
_PEAK_SECONDS = 0.002


def last_level_cache_bytes(root: Path = Path("/")) -> int | None:
    """Bytes of the largest cache that the first core sees, or None where the system does not say."""
    found = []
    for size in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = size.read_text(encoding="ascii").strip()
        number, unit = text[:-1], text[-1:]
        if number.isdigit() and unit in _UNITS:
            found.append(int(number) * _UNITS[unit])
    return max(found, default=None)


def beyond_cache_bytes() -> int:
    """How much has to be read for all of it to come from memory: eight times the last-level cache, or what a
    small machine has of that. Caches keep some of four times as much (docs/decisions/0015).
    """
    wanted = max(_MIN_BUFFER, 8 * (last_level_cache_bytes() or _UNKNOWN_CACHE))
    return min(wanted, max(cpu.detect().available_bytes // _MAX_SHARE_OF_MEMORY // 4096 * 4096, _MIN_BUFFER))


class Limits:
    """Measures whenever asked, so that a figure can be paired with the limit of the same second."""

    def __init__(self, threads: int) -> None:
        """Sizes the team to `threads`. Needs the native library."""
        native = library()
        assert native is not None
        native.set_num_threads(threads)
        self.buffer_bytes = beyond_cache_bytes()
        self._buffer = allocate("limits", self.buffer_bytes)
        self._buffer[:] = 1  # untouched zeros would all be read from one page of the system
        self._out = np.zeros((threads, 8), np.int64)
        self._stream_read, self._peak_products = kernel("stream_read"), kernel("peak_products")
        self._rounds = {product: self._rounds_for(product) for product in PRODUCTS}

    def read(self) -> float:
        """Bytes read a second, in one pass over the buffer."""
        begin = time.perf_counter()
        self._stream_read(self._out.ctypes.data, self._buffer.ctypes.data, self.buffer_bytes)
        return self.buffer_bytes / (time.perf_counter() - begin)

    def peak(self, product: str) -> float:
        """Operations a second of one of `PRODUCTS`; a multiply-add counts as two."""
        return self._multiply(product, self._rounds[product])

    def wake(self) -> None:
        """Call the team's threads, which may be asleep."""
        self._multiply("fp32", 100)

    def _multiply(self, product: str, rounds: int) -> float:
        begin = time.perf_counter()
        self._peak_products(self._out.ctypes.data, PRODUCTS[product], rounds)
        return int(self._out[:, 0].sum()) / (time.perf_counter() - begin)

    def _rounds_for(self, product: str) -> int:
        """So many that a measurement takes about as long as it should."""
        fastest = max(self._multiply(product, 100) for _ in range(5))
        operations = int(self._out[:, 0].sum())
        return max(100, int(100 * _PEAK_SECONDS * fastest / operations))
