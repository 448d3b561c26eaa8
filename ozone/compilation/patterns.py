"""Patterns: small Python functions over the vocabulary, read as expressions that the matcher looks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ozone.ops.schemas import SCHEMAS


@dataclass(frozen=True, eq=False)
class Variable:
    """An argument of a pattern: any value of a graph, or any scalar, the same wherever it stands."""

    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """A call of an op. Arguments are `Value`s, `Variable`s and constants, and lists of them."""

    op: str
    arguments: tuple[Any, ...]

    @property
    def writes(self) -> bool:
        return SCHEMAS[self.op].mutates


@dataclass(frozen=True)
class Value:
    """A result of a call. `index`: which one, or None where there is only one."""

    call: Call
    index: int | None


class Vocabulary:
    """Every op as a function from expressions to expressions: one, or a tuple of them."""

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in SCHEMAS:
            raise AttributeError(f"there is no op {op}")
        return partial(self._call, op)

    def _call(self, op: str, *arguments: Any) -> Value | tuple[Value, ...]:
        schema = SCHEMAS[op]
        if len(arguments) != len(schema.arguments):
            raise TypeError(f"{op} takes {schema.signature}, not {len(arguments)} arguments")
        call = Call(op, arguments)
        if len(schema.results) == 1:
            return Value(call, None)
        return tuple(Value(call, index) for index in range(len(schema.results)))


ops = Vocabulary()


@dataclass(frozen=True)
class Expression:
    """What a function of the vocabulary computes.

    Attributes:
        variables: names of its arguments.
        outputs: what it returns.
        calls: its ops, each after those that its arguments come from.
    """

    variables: tuple[str, ...]
    outputs: tuple[Value | Variable, ...]
    calls: tuple[Call, ...]


def expression(function: Callable[..., Any], variables: Iterable[str] = ()) -> Expression:
    """Read `function`. `variables`: names for the arguments of one that takes any number of them."""
    names = tuple(variables) or tuple(inspect.signature(function).parameters)
    returned = function(*map(Variable, names))
    outputs = returned if isinstance(returned, tuple) else (returned,)
    calls: dict[Call, None] = {}
    for output in outputs:
        _collect(output, calls)
    return Expression(names, outputs, tuple(calls))


def arguments_of(call: Call) -> list[Value | Variable]:
    """The values among the arguments of a call, from lists too."""
    found: list[Value | Variable] = []
    for argument in call.arguments:
        items = argument if isinstance(argument, list) else [argument]
        found += [item for item in items if isinstance(item, Value | Variable)]
    return found


def _collect(value: object, calls: dict[Call, None]) -> None:
    if isinstance(value, Value) and value.call not in calls:
        for argument in arguments_of(value.call):
            _collect(argument, calls)
        calls[value.call] = None
