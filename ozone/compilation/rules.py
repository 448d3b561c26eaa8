"""Rules: what a pass puts in whose place, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx

from ozone.compilation.matcher import Match, Pattern, replace
from ozone.compilation.patterns import Expression, expression, ops
from ozone.config.schema import PassConfig
from ozone.ops.schemas import FUSED, SCHEMAS

Function = Callable[..., Any]


def _always(_: Match) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """Wherever `pattern` stands and `condition` holds, `replacement` may stand.

    Both are functions of the vocabulary (`patterns.ops`) with the same arguments and results. An argument is
    any value or any scalar; a constant in a pattern is that constant and no other, None and booleans too.
    Nothing else may need a value that the pattern does not return. Only its last op may write.

    Attributes:
        variables: names of the arguments, where `pattern` does not name them all itself.
    """

    pattern: Function
    replacement: Function
    condition: Callable[[Match], bool] = _always
    variables: tuple[str, ...] = ()

    @cached_property
    def compiled(self) -> tuple[Pattern, Expression]:
        """Both as the matcher takes them. Raises: `ValueError` where they cannot be exchanged."""
        pattern = Pattern(expression(self.pattern, self.variables))
        replacement = expression(self.replacement, self.variables or pattern.expression.variables)
        before, after = (
            (len(e.outputs), sum(call.writes for call in e.calls)) for e in (pattern.expression, replacement)
        )
        if before != after:
            raise ValueError(f"a pattern and its replacement differ in results or writes: {self}")
        return pattern, replacement

    @property
    def ops(self) -> tuple[str, ...]:
        """The ops of the pattern, in order."""
        return tuple(call.op for call in self.compiled[0].expression.calls)

    @property
    def new_ops(self) -> tuple[str, ...]:
        """The ops of the replacement, in order."""
        return tuple(call.op for call in self.compiled[1].calls)

    def apply(self, graph: fx.Graph) -> int:
        """Replace all that matches; returns how many places that were."""
        pattern, replacement = self.compiled
        places = 0
        for match in pattern.matches(graph):
            if self.condition(match):
                replace(graph, pattern, match, replacement)
                places += 1
        return places


@dataclass(frozen=True)
class Fusion:
    """A pass that is rules, applied one after another: what matches more ops comes first.

    Attributes:
        flag: the switch in `PassConfig`.
        max_tokens: the most tokens in a step for which it pays, as the settings have it. None: any number.
    """

    flag: str
    rules: tuple[Rule, ...]
    max_tokens: Callable[[PassConfig], int | None] = lambda _: None


def fused(op: str, pattern: Function, condition: Callable[[Match], bool] = _always) -> Rule:
    """`pattern` becomes the one op that computes the same from the same arguments in the same order."""
    variables = tuple(argument.split()[1] for argument in SCHEMAS[op].arguments)
    return Rule(pattern, getattr(ops, op), condition, variables)


# A fused kernel keeps a row in the scratch memory of its thread.
_MAX_COLUMNS = 1 << 19


def chain(*parts: str) -> Rule:
    """Ops of `FUSED`, each on the first result of the one before, become the op that is all of them."""
    op = "_".join(parts)
    assert FUSED[op] == parts

    def pattern(*arguments: Any) -> tuple[Any, ...]:
        results, rest = arguments[:1], arguments[1:]
        for part in parts:
            count = len(SCHEMAS[part].arguments) - 1
            results = _tuple(getattr(ops, part)(results[0], *rest[:count])) + results[1:]
            rest = rest[count:]
        return results

    source = SCHEMAS[op].arguments[0].split()[1]
    return fused(op, pattern, lambda match: match.columns(source) <= _MAX_COLUMNS)


def _tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)
