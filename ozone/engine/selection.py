"""Finding the largest of many values, and inverting long sums, without sorting or summing one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]

_SUM_BLOCK = 256


def indices_of_largest(values: Values, count: int) -> NDArray[np.int64]:
    """Indices, ascending, of the `count` largest of `values` and of all that equal the least of them.

    values: no NaN, shape (n,). count: at least 1; n or more is all.
    """
    if count >= len(values):
        return np.arange(len(values))
    indices = np.flatnonzero(values >= _bound(values, count))
    largest = values[indices]
    least = np.partition(largest, len(largest) - count)[len(largest) - count]
    found: NDArray[np.int64] = indices[largest >= least]
    return found


def _bound(values: Values, count: int) -> Any:
    """A value that at least `count` of `values` reach and, if they are in no order, not many more.

    The count-th largest of the maxima of disjoint groups is one.
    """
    group = len(values) // (4 * count)
    if group < 2:
        return -np.inf
    size = len(values) // group
    maxima = values[: group * size].reshape(group, size).max(axis=0)
    return np.partition(maxima, size - count)[size - count]


def invert_running_sum(weights: NDArray[np.float64], uniform: float) -> int:
    """The first index whose running sum of `weights` exceeds `uniform` times their total.

    weights: non-negative, total above 0. uniform: in [0, 1).
    """
    starts = np.arange(0, len(weights), _SUM_BLOCK)
    ends = np.cumsum(np.add.reduceat(weights, starts))
    target = uniform * ends[-1]
    # Rounding may lead past the last weight, of all or of a block: then it is that one.
    block = min(int(np.searchsorted(ends, target, side="right")), int(np.searchsorted(ends, ends[-1])))
    start = int(starts[block])
    sums = np.cumsum(weights[start : start + _SUM_BLOCK])
    if block:
        sums += ends[block - 1]
    index = min(int(np.searchsorted(sums, target, side="right")), int(np.searchsorted(sums, sums[-1])))
    return start + index
