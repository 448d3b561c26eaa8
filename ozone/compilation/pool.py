"""Planning memory: a pool that gives out addresses which nobody writes to while a program is being made."""

from __future__ import annotations

import bisect
import mmap
import resource
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ozone.compilation.observer import Changed, unwatched
from ozone.errors import CompileError

_ALIGNMENT = 64
# Of the address space, not of memory: pages come into being when they are touched. Where address space is
# limited (`ulimit -v`, strict overcommit) a pool takes less of it, and no less than what small models need.
_RESERVED = 1 << 36
_LEAST_RESERVED = 1 << 26
# A limit of address space is shared with weights, the KV cache and several pools.
_SHARE_OF_LIMIT = 16
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; Python names it from 3.13 on


class PlannedPool:
    """Tensors by liveness: what one has left, the next may have. First fit.

    Attributes:
        size: bytes that a pool needs for all that was given out.
    """

    def __init__(self, changed: Changed = unwatched) -> None:
        self._changed = changed
        memory = _reserve()
        self._reserved = len(memory)
        self._bytes = np.frombuffer(memory, np.uint8)
        self._free = [(0, self._reserved)]  # (begin, end), in order, with something between each two
        self.size = 0

    @property
    def span(self) -> tuple[int, int]:
        """Address and bytes of the whole pool."""
        return self._bytes.ctypes.data, self._reserved

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
        raise CompileError(
            f"a program needs more than the {self._reserved >> 20} MiB of address space left for it: "
            "raise the limit (ulimit -v), or lower --max-num-batched-tokens"
        )

    def _give_back(self, begin: int, end: int) -> None:
        self._changed(begin, end, False)
        i = bisect.bisect(self._free, (begin, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == begin:
            i, begin = i - 1, self._free.pop(i - 1)[0]
        self._free.insert(i, (begin, end))


def _reserve() -> mmap.mmap:
    """Address space for a pool, as much as there is. Raises: `CompileError` where there is next to none."""
    size, (limit, _) = _RESERVED, resource.getrlimit(resource.RLIMIT_AS)
    while limit != resource.RLIM_INFINITY and size > max(limit // _SHARE_OF_LIMIT, _LEAST_RESERVED):
        size //= 2
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    while True:
        try:
            return mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            if size <= _LEAST_RESERVED:
                raise CompileError(
                    f"no {size >> 20} MiB of address space are left to plan a program in "
                    f"({error.strerror}): raise the limit (ulimit -v), or start with -O0"
                ) from None
            size //= 2
