"""A structural matcher: where in a graph a pattern stands, and putting something else in its place.

Nothing is commuted and nothing is tried twice: an op of the pattern is that op of the graph, argument by
argument. A match is taken only if what it replaces is not seen from outside, and if the graph computes the
same afterwards: all of a match moves to where its last op stands.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from torch import fx

from ozone.compilation.patterns import Call, Expression, Value, Variable, arguments_of
from ozone.ops.registry import OPS

# Stands for an index where a node takes all results of an op at once.
_TUPLE = -1


@dataclass
class Match:
    """A place where a pattern stands.

    Attributes:
        bindings: for each variable the node, or the scalar, that stands for it.
        nodes: the node of each op.
    """

    bindings: dict[str, Any] = field(default_factory=dict)
    nodes: dict[Call, fx.Node] = field(default_factory=dict)

    def columns(self, variable: str) -> int:
        """How many numbers a row of a variable has, over all dimensions but the first; that never varies."""
        return math.prod(map(int, self.bindings[variable].meta["val"].shape[1:]))


class Pattern:
    """An expression to look for."""

    def __init__(self, expression: Expression) -> None:
        """Raises: `ValueError` for an expression that does not end in one op, or that writes before it."""
        self.expression = expression
        *others, self.last = expression.calls
        self.outputs = [output for output in expression.outputs if isinstance(output, Value)]
        used = {v.call for call in expression.calls for v in arguments_of(call) if isinstance(v, Value)}
        if any(call not in used for call in others) or len(self.outputs) < len(expression.outputs):
            raise ValueError(f"a pattern ends in one op and returns its own results, not {expression}")
        if any(call.writes for call in others):
            raise ValueError(f"only the last op of a pattern may write, since it alone stays: {expression}")

    def matches(self, graph: fx.Graph) -> Iterator[Match]:
        """All matches in the order of the graph, which may be rewritten between them."""
        nodes = graph.find_nodes(op="call_function", target=_node_of(self.last.op))
        state = written(graph) if nodes else set()
        for node in nodes:
            match = Match()
            if _stands(self.last, node, match) and self._may_move(match, state):
                yield match

    def results(self, match: Match) -> dict[Value, list[fx.Node]]:
        """For each result of each op of a match the nodes that are it."""
        found: dict[Value, list[fx.Node]] = {}
        for call, node in match.nodes.items():
            if len(OPS[call.op].schema.results) == 1:
                found[Value(call, None)] = [node]
                continue
            for user in node.users:
                index: Any = user.args[1] if user.target is operator.getitem else _TUPLE
                found.setdefault(Value(call, index), []).append(user)
        return found

    def _may_move(self, match: Match, state: set[fx.Node]) -> bool:
        results, inside, last = self.results(match), set(match.nodes.values()), match.nodes[self.last]
        items = {node for nodes in results.values() for node in nodes}
        for value, nodes in results.items():
            if value.index == _TUPLE:
                return False
            users = {user for node in nodes for user in node.users} - inside
            returned = value in self.outputs
            # What takes a result of a match must come after all of it.
            if users and not (returned and all(last < user for user in users)):
                return False
        bound: set[fx.Node] = set()
        fx.node.map_arg(list(match.bindings.values()), bound.add)
        if bound & (items | inside):
            return False
        # Reading memory that others write to may not be put off until behind a write.
        early = (node for call, node in match.nodes.items() if call is not self.last)
        return not any(
            state.intersection(node.all_input_nodes) and _writes_between(node, last) for node in early
        )


def replace(graph: fx.Graph, pattern: Pattern, match: Match, replacement: Expression) -> None:
    """Put `replacement` where a pattern stands: an expression of the same variables and as many results."""
    results, ops = pattern.results(match), set(match.nodes.values())
    olds = [
        [node for node in results.get(output, []) if node.users.keys() - ops] for output in pattern.outputs
    ]
    with graph.inserting_before(match.nodes[pattern.last]):
        values = _build(graph, replacement, match)
        for output, nodes in zip(replacement.outputs, olds, strict=True):
            if not nodes:
                continue  # a result that nobody else takes
            new = _item(graph, output, values, match)
            if isinstance(output, Value) and "val" in nodes[0].meta:
                new.meta["val"] = nodes[0].meta["val"]
            for node in nodes:
                node.replace_all_uses_with(new)
    dead = {*ops, *(node for nodes in results.values() for node in nodes)}
    for node in sorted(dead, reverse=True):
        graph.erase_node(node)


def written(graph: fx.Graph) -> set[fx.Node]:
    """The values whose memory an op of the graph writes to."""
    found: set[fx.Node] = set()
    for target in {node.target for node in graph.nodes if node.op == "call_function"}:
        positions = _written_arguments(target)
        if positions:
            for node in graph.find_nodes(op="call_function", target=target, sort=False):
                found.update(node.args[i] for i in positions if isinstance(node.args[i], fx.Node))
    return found


@cache
def _written_arguments(target: Any) -> tuple[int, ...]:
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    arguments = target._schema.arguments
    return tuple(i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


def _writes_between(first: fx.Node, last: fx.Node) -> bool:
    """Whether an op behind `first` and before `last` writes to anything."""
    nodes = itertools.takewhile(lambda node: node is not last, _behind(first))
    return any(_written_arguments(node.target) for node in nodes)


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    while True:
        node = node.next
        yield node


def _node_of(op: str) -> Any:
    return OPS[op].node


def _stands(call: Call, node: fx.Node, match: Match) -> bool:
    """Whether `call` stands at `node`, given what is bound already."""
    if call in match.nodes:
        return match.nodes[call] is node
    if node.target is not _node_of(call.op) or node.kwargs or len(node.args) != len(call.arguments):
        return False
    match.nodes[call] = node
    return all(_fits(a, b, match) for a, b in zip(call.arguments, node.args, strict=True))


def _fits(expected: Any, found: Any, match: Match) -> bool:
    if isinstance(expected, Variable):
        bound = match.bindings.setdefault(expected.name, found)
        return bound is found or _equal(bound, found)
    if isinstance(expected, Value):
        if not isinstance(found, fx.Node):
            return False
        if expected.index is None:
            return _stands(expected.call, found, match)
        if found.target is not operator.getitem:
            return False
        source, index = cast(tuple[fx.Node, int], found.args)
        return index == expected.index and _stands(expected.call, source, match)
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(_fits(a, b, match) for a, b in zip(expected, found, strict=True))
        )
    return _equal(expected, found)


def _equal(a: Any, b: Any) -> bool:
    """Equality of constants, for which 1, 1.0 and True are three."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and not isinstance(a, fx.Node) and bool(a == b)


def _build(graph: fx.Graph, expression: Expression, match: Match) -> Mapping[Call, fx.Node]:
    values: dict[Call, fx.Node] = {}
    for call in expression.calls:
        arguments = tuple(
            [_item(graph, item, values, match) for item in argument]
            if isinstance(argument, list)
            else _item(graph, argument, values, match)
            for argument in call.arguments
        )
        values[call] = graph.create_node("call_function", _node_of(call.op), arguments, name=call.op)
    return values


def _item(graph: fx.Graph, expected: Any, values: Mapping[Call, fx.Node], match: Match) -> Any:
    """What stands for a part of a replacement."""
    if isinstance(expected, Variable):
        return match.bindings[expected.name]
    if not isinstance(expected, Value):
        return expected
    node = values[expected.call]
    return node if expected.index is None else graph.call_function(operator.getitem, (node, expected.index))
