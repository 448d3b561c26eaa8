"""Compiling a step: trace once; then for each range of token counts rewrite, split, lower."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ozone.compilation.lowering import Capacity, Lowered, lower
from ozone.compilation.pieces import split
from ozone.compilation.step import Step, StepInputs
from ozone.compilation.trace import trace
from ozone.config.ranges import compile_ranges
from ozone.config.schema import CompilationConfig

logger = logging.getLogger("ozone")


@dataclass(frozen=True)
class RangeProgram:
    """What runs for batches of `first` to `last` tokens."""

    first: int
    last: int
    lowered: Lowered


def compile_step(
    step: Step, inputs: StepInputs, config: CompilationConfig, capacity: Capacity
) -> Sequence[RangeProgram]:
    """Programs for every number of tokens up to `capacity.tokens`.

    Raises: `ForeignOpError` where the model has ops that are not of the vocabulary.
    """
    began = time.perf_counter()
    traced = trace(step, inputs)
    logger.debug("traced %d nodes in %.2f s", len(traced.module.graph.nodes), time.perf_counter() - began)
    programs = []
    ranges = compile_ranges(config.compile_ranges_endpoints, capacity.tokens)
    for first, last in ranges or ((1, capacity.tokens),):
        rewritten = copy.copy(traced)
        rewritten.module = copy.deepcopy(traced.module)
        pieces = split(rewritten.module.graph, config.splitting_ops)
        lowered = lower(rewritten, pieces, step, inputs, Capacity(last, capacity.requests))
        programs.append(RangeProgram(first, last, lowered))
    return programs
