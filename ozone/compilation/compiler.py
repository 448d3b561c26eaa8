"""Compiling a step: trace once; then for each range of token counts rewrite, split, lower."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ozone.compilation.failures import naming
from ozone.compilation.lowering import Capacity, Lowered, lower
from ozone.compilation.observer import Observer
from ozone.compilation.pass_manager import PassReport, run_passes
from ozone.compilation.pieces import split
from ozone.compilation.step import Step, StepInputs
from ozone.compilation.trace import trace
from ozone.compilation.traced import Traced
from ozone.config.ranges import compiled_for
from ozone.config.schema import CompilationConfig

# Times what happens within it under a name: `StartupTimer.phase`.
Phase = Callable[[str], AbstractContextManager[None]]


def unnamed(name: str) -> AbstractContextManager[None]:  # noqa: ARG001 (nobody wants to know)
    """A `Phase` that times nothing."""
    return nullcontext()


@dataclass(frozen=True)
class RangeProgram:
    """What runs for batches of `first` to `last` tokens. `passes`: what each pass has done to it."""

    first: int
    last: int
    lowered: Lowered
    passes: Sequence[PassReport] = ()


def compile_step(
    step: Step,
    inputs: StepInputs,
    config: CompilationConfig,
    capacity: Capacity,
    phase: Phase = unnamed,
    observer: Observer | None = None,
) -> Sequence[RangeProgram]:
    """Programs for every number of tokens up to `capacity.tokens`, as `ByTokens` takes them.

    `observer` is told what is made meanwhile.

    Raises: `ForeignOpError` where the model has ops that are not of the vocabulary, `CompileError` where
        anything else goes wrong.
    """
    observer = observer or Observer()
    with phase("trace"), naming("the model cannot be traced", config.debug_dump_path):
        traced = trace(step, inputs)
    observer.traced(traced)
    return compile_traced(traced, step, inputs, config, capacity, phase, observer)


def compile_traced(
    traced: Traced,
    step: Step,
    inputs: StepInputs,
    config: CompilationConfig,
    capacity: Capacity,
    phase: Phase = unnamed,
    observer: Observer | None = None,
) -> Sequence[RangeProgram]:
    """`compile_step` of what is traced already. `traced` stays as it is."""
    observer = observer or Observer()
    programs = []
    for first, last in compiled_for(config, capacity.tokens):
        which = f"for {first} to {last} tokens"
        with phase("rewrite"), naming(f"the model cannot be rewritten {which}", config.debug_dump_path):
            rewritten = copy.copy(traced)
            rewritten.module = copy.deepcopy(traced.module)
            observer.begins(first, last, rewritten)
            reports = run_passes(rewritten.module.graph, config, first, last, observer)
            pieces = split(rewritten.module.graph, config.splitting_ops)
        observer.split(pieces)
        most = Capacity(last, capacity.requests)
        with phase("lower"), naming(f"the model cannot be lowered {which}", config.debug_dump_path):
            lowered = lower(rewritten, pieces, step, inputs, most, observer)
        observer.lowered(lowered)
        programs.append(RangeProgram(first, last, lowered, reports))
    return programs
