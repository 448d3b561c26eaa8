"""A graph as code that reads like Python: one line for each op, with the type and shape of what it gives."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ozone.compilation.step import SIZES, StepInputs
from ozone.compilation.traced import Traced

_INDENT = "    "


@dataclass(frozen=True)
class Names:
    """What nodes and sizes of a graph are called in its listing.

    Attributes:
        arguments: of placeholders by their names in the graph, as the model has them.
        sizes: of symbols.
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(traced: Traced) -> Names:
        """A traced step's. Copies of its graph have the same."""
        arguments, sizes = {}, {}
        of_input = dict(zip(StepInputs._fields, SIZES, strict=True))
        placeholders = traced.module.graph.find_nodes(op="placeholder")
        for node, argument in zip(placeholders, traced.arguments, strict=True):
            arguments[node.name] = argument.name
            value = node.meta["val"]
            if argument.kind == "size":
                sizes[str(value)] = argument.name
            elif argument.kind == "input":
                sizes[str(value.shape[0])] = of_input[argument.name]
        return Names(arguments, sizes)

    def size(self, value: object) -> str:
        """A number, or an expression of sizes."""
        return re.sub(r"\b[us]\d+\b", lambda symbol: self.sizes.get(symbol[0], symbol[0]), str(value))


def listing(graph: fx.Graph, names: Names) -> list[str]:
    """The whole graph as a function."""
    lines = ["def step("]
    for node in graph.find_nodes(op="placeholder"):
        kind = _kind(node, names)
        lines.append(f"{_INDENT}{_value(node, names)}," + (f"  # {kind}" if kind else ""))
    lines.append("):")
    lines += [_INDENT + line for node in graph.nodes if (line := statement(node, names)) is not None]
    return lines


def statement(node: fx.Node, names: Names) -> str | None:
    """A node as a line; None for one that is written where it is used."""
    if node.op == "placeholder" or _is_item(node):
        return None
    if node.op == "output":
        return f"return {_value(node.args[0], names)}"
    kind = _kind(node, names)
    return f"{node.name} = {_call(node, names)}" + (f"  # {kind}" if kind else "")


def op_names(nodes: Iterable[fx.Node]) -> list[str]:
    """The ops that nodes call, in order."""
    return [_target(node) for node in nodes if node.op.startswith("call_") and not _is_item(node)]


def difference(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """A unified diff without its heading: lines begin with a blank, ``-``, ``+`` or ``@@``."""
    return list(difflib.unified_diff(before, after, lineterm=""))[2:]


def _is_item(node: fx.Node) -> bool:
    return node.target is operator.getitem and isinstance(node.args[1], int)


def _call(node: fx.Node, names: Names) -> str:
    args = [_value(arg, names) for arg in node.args]
    args += [f"{key}={_value(value, names)}" for key, value in node.kwargs.items()]
    if node.op == "get_attr":
        return f"self.{node.target}"
    if node.op == "call_method":
        return f"{args[0]}.{node.target}({', '.join(args[1:])})"
    return f"{_target(node)}({', '.join(args)})"


def _target(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"ozone.{target._opname}" if target.namespace == "ozone" else str(target)
    if callable(target):
        module = getattr(target, "__module__", None) or type(target).__name__
        return f"{module.strip('_')}.{getattr(target, '__name__', target)}"
    return str(target)


def _value(value: Any, names: Names) -> str:
    if isinstance(value, fx.Node):
        if _is_item(value):
            return f"{_value(value.args[0], names)}[{value.args[1]}]"
        return names.arguments.get(value.name, value.name)
    if isinstance(value, list | tuple):
        inside = ", ".join(_value(item, names) for item in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, torch.SymInt):
        return names.size(value)
    return str(value) if isinstance(value, torch.dtype | torch.device) else repr(value)


def _kind(node: fx.Node, names: Names) -> str:
    value = node.meta.get("val", node.meta.get("example_value"))
    if value is None:  # what passes put in place: only what is taken out of it has a type
        items: dict[Any, Any] = {user.args[1]: user.meta.get("val") for user in node.users if _is_item(user)}
        value = tuple(items.get(place) for place in range(max(items, default=-1) + 1)) or None
    return _kind_of(value, names)


def _kind_of(value: Any, names: Names) -> str:
    if isinstance(value, Tensor):
        shape = ", ".join(names.size(size) for size in value.shape)
        return f"{str(value.dtype).removeprefix('torch.')}[{shape}]"
    if isinstance(value, list | tuple):
        return f"({', '.join(_kind_of(item, names) or '...' for item in value)})"
    return "" if value is None else "size"
