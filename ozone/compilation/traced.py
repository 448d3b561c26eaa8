"""A traced step: a graph of op overloads, and what its placeholders stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx


@dataclass(frozen=True)
class Argument:
    """What a placeholder of a traced graph stands for: an input or one of the first dimensions of inputs, by
    the names of `StepInputs` and `SIZES`, or a constant, by its name in `Step.constants`.
    """

    kind: Literal["size", "input", "constant"]
    name: str


@dataclass
class Traced:
    """A step as a graph. `arguments` has one entry for each placeholder, in their order."""

    module: fx.GraphModule
    arguments: list[Argument]
