"""Programs bound to a model's memory: a step without Python between its ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ozone.compilation.by_tokens import ByTokens
from ozone.compilation.compiler import RangeProgram
from ozone.compilation.lowering import Lowered, Result, span_of
from ozone.compilation.step import Step, StepInputs
from ozone.config.schema import CUDAGraphMode
from ozone.engine.input_buffers import BatchCounts
from ozone.native import allocate, library


class CompiledStep:
    """A lowered step over its inputs and constants. One caller at a time.

    Attributes:
        pool_bytes: of the memory that values between launches lie in.
    """

    def __init__(self, programs: Sequence[RangeProgram], step: Step, inputs: StepInputs) -> None:
        """`programs`: of ranges as `ByTokens` takes them."""
        tensors = {**dict(step.constants()), **inputs._asdict()}
        pool = torch.from_numpy(allocate("pool", max(program.lowered.pool_bytes for program in programs)))
        self.pool_bytes = pool.numel()
        self._kept = step, inputs  # what the programs point into
        self._bound = ByTokens(
            (made.first, made.last, _Bound(made.lowered, tensors, pool)) for made in programs
        )

    def whole(self, num_tokens: int) -> Any:
        """The native program that steps with so many tokens replay in mode FULL."""
        return self._bound[num_tokens].whole

    def __call__(self, counts: BatchCounts, mode: CUDAGraphMode = CUDAGraphMode.NONE) -> Tensor:
        """Run the step on what the inputs hold.

        Args:
            mode: NONE launches kernel by kernel; PIECEWISE replays what lies between splitting ops; FULL
                replays everything at once.

        Returns: hidden states (tokens, columns), valid until the next step.
        """
        tokens, requests, logits = counts.num_tokens, counts.num_requests, counts.num_logits
        bound = self._bound[tokens]
        if mode is CUDAGraphMode.FULL:
            bound.whole.replay(tokens, requests, logits)
        else:
            for program, splits in bound.pieces:
                launch = program.run if splits or mode is CUDAGraphMode.NONE else program.replay
                launch(tokens, requests, logits)
        return bound.result[:tokens]


class _Bound:
    """The programs of one range: each piece, with whether it is a splitting op; all pieces as one."""

    def __init__(self, lowered: Lowered, tensors: Mapping[str, Tensor], pool: Tensor) -> None:
        native = library()
        assert native is not None, "programs run where the native library is"
        memory = [*(span_of(tensors[name]) for name in lowered.memory), span_of(pool)]
        self.pieces = [(piece.program.bind(memory), piece.splits) for piece in lowered.pieces]
        words = b"".join(piece.program.words for piece in lowered.pieces)
        self.whole: Any = native.Program.from_words(words).bind(memory)
        self.result = _rows(pool, lowered.result)


def _rows(pool: Tensor, result: Result) -> Tensor:
    """All rows that fit behind where the result begins."""
    row = result.columns * result.dtype.itemsize
    rows = (pool.numel() - result.offset) // row
    memory = pool[result.offset : result.offset + rows * row]
    return memory.view(result.dtype).view(rows, result.columns)
