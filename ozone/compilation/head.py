"""What follows a step: from hidden states to logits, and from logits to tokens, as launches behind its own.

They are few and take next to no time to record, so each process makes its own, over its own memory; no
artifact holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ozone.compilation.lowering import Capacity, Recording, Result, Sizes, for_some_sizes, recording, span_of
from ozone.compilation.pool import PlannedPool
from ozone.compilation.step import Step
from ozone.engine.sampling_table import SamplingTable
from ozone.native import allocate, kernel

# Address and bytes of memory that a program points into.
Span = tuple[int, int]
_NOWHERE: Span = (0, 0)


class Head:
    """Rows of a step's hidden states become logits, and logits tokens.

    Attributes:
        logits: (rows, vocab_size) float32, where the launches leave them, of the most rows at once.
        pool_bytes: of the memory that these and what comes between lie in.
    """

    def __init__(self, step: Step, logits_indices: Tensor, hidden: Result, rows: int) -> None:
        """
        Args:
            logits_indices: (tokens,) int64, the runner's own: tokens whose logits are wanted.
            hidden: what a step leaves; where it lies does not matter.

        Raises: `ForeignOpError` where the output head has ops that are not of the vocabulary.
        """
        # Nothing here is counted in tokens or requests of a batch.
        capacity = Capacity(tokens=rows, requests=1)
        self._recorded = for_some_sizes(capacity, lambda sizes: _record(step, logits_indices, hidden, sizes))
        pool, logits = self._recorded.pool, self._recorded.logits
        self._memory = allocate("logits", pool.size)
        self._inputs = logits_indices, *self._recorded.constants
        at = pool.offset(logits)
        memory = self._memory[at : at + rows * logits.shape[1] * logits.itemsize]
        self.logits: NDArray[np.float32] = memory.view(np.float32).reshape(rows, logits.shape[1])
        self.pool_bytes = pool.size

    def words(self, before: int, table: SamplingTable | None) -> bytes:
        """The launches as a program over `before` other spans of memory, then `spans`.

        With a table, the last one chooses a token for each row of the logits.
        """
        launches, spans, sizes = self._recorded.launches, self._recorded.spans, self._recorded.sizes
        elsewhere = [_NOWHERE] * before
        words: bytes = launches.store(sizes.header, elsewhere + spans).words
        if table is None:
            return words
        logits = self._recorded.logits
        with recording() as chooses:
            kernel("sample")(
                table.token_ids.ctypes.data,
                logits.data_ptr(),
                table.rows.ctypes.data,
                sizes.logits,
                logits.shape[1],
            )
        chosen: bytes = chooses.store(sizes.header, elsewhere + spans + _spans_of(table)).words
        return words + chosen

    def spans(self, hidden: Span, table: SamplingTable | None) -> list[Span]:
        """What the launches point into; `hidden`: where the step leaves its result."""
        spans = [hidden, *map(span_of, self._inputs), (self._memory.ctypes.data, self._memory.nbytes)]
        return spans if table is None else spans + _spans_of(table)


class _Recorded(NamedTuple):
    """Launches over memory that is not there, and the spans of it: hidden states, inputs, pool."""

    launches: Any
    spans: list[Span]
    sizes: Sizes
    constants: Sequence[Tensor]
    pool: PlannedPool
    logits: Tensor


def _record(step: Step, logits_indices: Tensor, hidden: Result, sizes: Sizes) -> _Recorded:
    dry, pool = PlannedPool(), PlannedPool()
    states = dry.empty((len(logits_indices), hidden.columns), hidden.dtype)
    indices = dry.empty((sizes.logits,), logits_indices.dtype)
    with recording() as launches, Recording(pool):
        logits = step.logits(states, indices)
    weights = {id(weight) for weight in step.model.lm_head.state_dict(keep_vars=True).values()}
    constants = [constant for _, constant in step.constants() if id(constant) in weights]
    spans = [*map(span_of, (states, indices, *constants)), pool.span]
    launches.store(sizes.header, spans)  # raises where these sizes will not do
    return _Recorded(launches, spans, sizes, constants, pool, logits)


def _spans_of(table: SamplingTable) -> list[Span]:
    return [(array.ctypes.data, array.nbytes) for array in (table.token_ids, table.rows)]
