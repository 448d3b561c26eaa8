"""Programs bound to a model's memory: a step without Python between its ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ozone.compilation.by_tokens import ByTokens
from ozone.compilation.compiler import RangeProgram
from ozone.compilation.head import Head, Span
from ozone.compilation.lowering import Lowered, Result, span_of
from ozone.compilation.step import Step, StepInputs
from ozone.config.schema import CUDAGraphMode
from ozone.engine.input_buffers import BatchCounts
from ozone.engine.sampling_table import SamplingTable
from ozone.native import allocate, library


class CompiledStep:
    """A lowered step over its inputs and constants. One caller at a time.

    Attributes:
        pool_bytes: of the memory that values between launches lie in, logits among them.
    """

    def __init__(
        self,
        programs: Sequence[RangeProgram],
        step: Step,
        inputs: StepInputs,
        logits_indices: Tensor,
        max_logits: int,
    ) -> None:
        """
        Args:
            programs: of ranges as `ByTokens` takes them.
            logits_indices: (tokens,) int64, tokens whose logits are wanted.
            max_logits: the most rows of logits that come with a step.
        """
        tensors = {**dict(step.constants()), **inputs._asdict()}
        pool = torch.from_numpy(allocate("pool", max(program.lowered.pool_bytes for program in programs)))
        head = Head(step, logits_indices, programs[0].lowered.result, max_logits)
        self.max_logits = max_logits
        self.pool_bytes = pool.numel() + head.pool_bytes
        self._kept = step, inputs  # what the programs point into
        self._logits = head.logits
        self._bound = ByTokens(
            (made.first, made.last, _Bound(made.lowered, tensors, pool, head)) for made in programs
        )

    def whole(self, num_tokens: int, table: SamplingTable | None = None) -> Any:
        """The native program that steps with so many tokens replay in mode FULL, logits and all."""
        return self._bound[num_tokens].whole(table)

    def hidden(self, counts: BatchCounts, mode: CUDAGraphMode = CUDAGraphMode.NONE) -> Tensor:
        """Run the step alone on what the inputs hold.

        Args:
            mode: NONE launches kernel by kernel; PIECEWISE replays what lies between splitting ops; FULL
                replays everything at once.

        Returns: hidden states (tokens, columns), valid until the next step.
        """
        bound = self._bound[counts.num_tokens]
        if mode is CUDAGraphMode.FULL:
            _replay(bound.step, counts)
        else:
            bound.run_pieces(counts, mode)
        return bound.result[: counts.num_tokens]

    def logits(
        self,
        counts: BatchCounts,
        mode: CUDAGraphMode = CUDAGraphMode.NONE,
        table: SamplingTable | None = None,
    ) -> NDArray[np.float32]:
        """Run the step and what follows it, for a batch of 1 to `max_logits` rows of logits.

        Args:
            table: where a token is to be chosen for each row of the logits.

        Returns: logits (rows, vocab_size), valid until the next step.
        """
        bound = self._bound[counts.num_tokens]
        if mode is CUDAGraphMode.FULL:
            _replay(bound.whole(table), counts)
        else:
            bound.run_pieces(counts, mode)
            launch = _run if mode is CUDAGraphMode.NONE else _replay
            launch(bound.head(table), counts)
        if table is not None:
            table.chosen = True
        return self._logits[: counts.num_logits]


def _replay(program: Any, counts: BatchCounts) -> None:
    program.replay(counts.num_tokens, counts.num_requests, counts.num_logits)


def _run(program: Any, counts: BatchCounts) -> None:
    program.run(counts.num_tokens, counts.num_requests, counts.num_logits)


class _Bound:
    """The programs of one range.

    Attributes:
        pieces: each piece, with whether it is a splitting op.
        step: all pieces as one.
        result: where they leave the hidden states of as many tokens as there is room for.
    """

    def __init__(self, lowered: Lowered, tensors: Mapping[str, Tensor], pool: Tensor, head: Head) -> None:
        self._memory: list[Span] = [*(span_of(tensors[name]) for name in lowered.memory), span_of(pool)]
        self.pieces = [(piece.program.bind(self._memory), piece.splits) for piece in lowered.pieces]
        self._words = b"".join(piece.program.words for piece in lowered.pieces)
        self.step = _bind(self._words, self._memory)
        self.result = _rows(pool, lowered.result)
        self._head = head
        self._table: SamplingTable | None = None  # of the programs that choose tokens
        self._with_table: tuple[Any, Any] | None = None
        self._without_table = self._bind_head(None)

    def whole(self, table: SamplingTable | None) -> Any:
        """The step, its logits, and the choice of tokens if there is a table, as one program."""
        return self._programs(table)[0]

    def head(self, table: SamplingTable | None) -> Any:
        """What follows the step, likewise."""
        return self._programs(table)[1]

    def run_pieces(self, counts: BatchCounts, mode: CUDAGraphMode) -> None:
        for program, splits in self.pieces:
            launch = _run if splits or mode is CUDAGraphMode.NONE else _replay
            launch(program, counts)

    def _programs(self, table: SamplingTable | None) -> tuple[Any, Any]:
        if table is None:
            return self._without_table
        if self._with_table is None or table is not self._table:
            self._with_table, self._table = self._bind_head(table), table
        return self._with_table

    def _bind_head(self, table: SamplingTable | None) -> tuple[Any, Any]:
        words = self._head.words(len(self._memory), table)
        memory = [*self._memory, *self._head.spans(_span_of_rows(self.result), table)]
        return _bind(self._words + words, memory), _bind(words, memory)


def _bind(words: bytes, memory: list[Span]) -> Any:
    native = library()
    assert native is not None, "programs run where the native library is"
    return native.Program.from_words(words).bind(memory)


def _span_of_rows(rows: Tensor) -> Span:
    return rows.data_ptr(), rows.nbytes


def _rows(pool: Tensor, result: Result) -> Tensor:
    """All rows that fit behind where the result begins."""
    row = result.columns * result.dtype.itemsize
    rows = (pool.numel() - result.offset) // row
    memory = pool[result.offset : result.offset + rows * row]
    return memory.view(result.dtype).view(rows, result.columns)
