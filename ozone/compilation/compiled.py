"""Programs bound to a model's memory: a step without Python between its ops."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ozone.compilation.compiler import RangeProgram
from ozone.compilation.lowering import Lowered, Result, span_of
from ozone.compilation.step import Step, StepInputs
from ozone.native import allocate


class CompiledStep:
    """A lowered step over its inputs and constants. One caller at a time."""

    def __init__(self, programs: Sequence[RangeProgram], step: Step, inputs: StepInputs) -> None:
        """`programs`: of ranges that follow each other, the first one from 1 on."""
        tensors = {**dict(step.constants()), **inputs._asdict()}
        pool = torch.from_numpy(allocate("pool", max(program.lowered.pool_bytes for program in programs)))
        self._kept = step, inputs  # what the programs point into
        self._last = [program.last for program in programs]
        self._bound = [_Bound(program.lowered, tensors, pool) for program in programs]

    def __call__(self, num_tokens: int, num_requests: int, num_logits: int) -> Tensor:
        """Run the step on what the inputs hold; hidden states (tokens, columns), valid until the next one."""
        bound = self._bound[bisect.bisect_left(self._last, num_tokens)]
        for program in bound.programs:
            program.run(num_tokens, num_requests, num_logits)
        return bound.result[:num_tokens]


class _Bound:
    """The programs of one range."""

    def __init__(self, lowered: Lowered, tensors: Mapping[str, Tensor], pool: Tensor) -> None:
        memory = [*(span_of(tensors[name]) for name in lowered.memory), span_of(pool)]
        self.programs: list[Any] = [piece.program.bind(memory) for piece in lowered.pieces]
        self.result = _rows(pool, lowered.result)


def _rows(pool: Tensor, result: Result) -> Tensor:
    """All rows that fit behind where the result begins."""
    row = result.columns * result.dtype.itemsize
    rows = (pool.numel() - result.offset) // row
    memory = pool[result.offset : result.offset + rows * row]
    return memory.view(result.dtype).view(rows, result.columns)
