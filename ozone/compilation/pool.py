"""Planning memory: a pool that gives out addresses which nobody writes to while a program is being made."""

from __future__ import annotations

import bisect
import mmap
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ozone.compilation.observer import Changed, unwatched

_ALIGNMENT = 64
# Of the address space, not of memory: pages come into being when they are touched.
_RESERVED = 1 << 36
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; Python names it from 3.13 on


class PlannedPool:
    """Tensors by liveness: what one has left, the next may have. First fit.

    Attributes:
        size: bytes that a pool needs for all that was given out.
    """

    def __init__(self, changed: Changed = unwatched) -> None:
        self._changed = changed
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._bytes = np.frombuffer(mmap.mmap(-1, _RESERVED, flags=flags), np.uint8)
        self._free = [(0, _RESERVED)]  # (begin, end), in order, with something between each two
        self.size = 0

    @property
    def span(self) -> tuple[int, int]:
        """Address and bytes of the whole pool."""
        return self._bytes.ctypes.data, _RESERVED

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A dense tensor, whose memory is given back when the last view of it is gone."""
        bytes_ = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        begin, end = self._take(-(-max(bytes_, 1) // _ALIGNMENT) * _ALIGNMENT)
        memory = self._bytes[begin : begin + bytes_]
        weakref.finalize(memory, self._give_back, begin, end)
        return torch.from_numpy(memory).view(dtype).view(tuple(shape))

    def offset(self, tensor: Tensor) -> int:
        """Where in the pool a tensor begins."""
        return tensor.data_ptr() - self.span[0]

    def _take(self, size: int) -> tuple[int, int]:
        for i, (begin, end) in enumerate(self._free):
            if end - begin >= size:
                self._free[i : i + 1] = [(begin + size, end)] if end - begin > size else []
                self.size = max(self.size, begin + size)
                self._changed(begin, begin + size, True)
                return begin, begin + size
        raise MemoryError(f"a program needs more than {_RESERVED} bytes at once")

    def _give_back(self, begin: int, end: int) -> None:
        self._changed(begin, end, False)
        i = bisect.bisect(self._free, (begin, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == begin:
            i, begin = i - 1, self._free.pop(i - 1)[0]
        self._free.insert(i, (begin, end))
