"""Which graph a batch gets. The only place that knows which graphs there are; pure, so easily tested."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from ozone.config.schema import CUDAGraphMode

# What a mode means for batches of one token a request, and for all others.
_BATCHES = {
    CUDAGraphMode.NONE: (CUDAGraphMode.NONE, CUDAGraphMode.NONE),
    CUDAGraphMode.PIECEWISE: (CUDAGraphMode.PIECEWISE, CUDAGraphMode.PIECEWISE),
    CUDAGraphMode.FULL: (CUDAGraphMode.FULL, CUDAGraphMode.FULL),
    CUDAGraphMode.FULL_DECODE_ONLY: (CUDAGraphMode.FULL, CUDAGraphMode.NONE),
    CUDAGraphMode.FULL_AND_PIECEWISE: (CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE),
}


@dataclass(frozen=True)
class BatchDescriptor:
    """What of a batch decides which graph it gets."""

    num_tokens: int
    num_requests: int

    @property
    def uniform_decode(self) -> bool:
        """Whether each request has exactly one token in it."""
        return self.num_tokens == self.num_requests


class Dispatcher:
    """Picks FULL, PIECEWISE or NONE for a batch, and the size that it was captured for."""

    def __init__(self, mode: CUDAGraphMode, capture_sizes: Sequence[int]) -> None:
        """
        Args:
            mode: the resolved setting.
            capture_sizes: the most tokens of each graph. None are captured without sizes.
        """
        self._decode, self._others = _BATCHES[mode]
        self._sizes = sorted(capture_sizes)

    def dispatch(self, batch: BatchDescriptor) -> tuple[CUDAGraphMode, int | None]:
        """The highest mode that there is a graph for, and that graph's size: the smallest one that holds the
        batch. None goes with NONE.
        """
        mode = self._decode if batch.uniform_decode else self._others
        place = bisect.bisect_left(self._sizes, batch.num_tokens)
        if mode is CUDAGraphMode.NONE or place == len(self._sizes):
            return CUDAGraphMode.NONE, None
        return mode, self._sizes[place]
