"""Splitting: a graph as pieces, one after another, cut before and after every splitting op."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ozone.errors import ConfigError
from ozone.ops.schemas import SCHEMAS

_NAMESPACE = "ozone::"


@dataclass(frozen=True)
class Piece:
    """Nodes of a graph that follow each other.

    Attributes:
        splits: whether it is a splitting op, with the items of its result, rather than what lies between two.
        called: whether its ops are called one by one, as they are, where code is generated for others.
    """

    nodes: tuple[fx.Node, ...]
    splits: bool
    called: bool = False


def op_name(node: fx.Node) -> str | None:
    """The name in the vocabulary of the op that a node calls, or None."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "ozone":
        return target._opname
    return None


def splitting_names(splitting_ops: Iterable[str]) -> frozenset[str]:
    """The vocabulary's names of the ops that the setting lists, and of those whose names begin with theirs:
    a linear is one in every format, attention stays attention where its result is quantized.

    Raises: `ConfigError` for one that the vocabulary does not have.
    """
    names = {op.removeprefix(_NAMESPACE) for op in splitting_ops}
    for name in names:
        if name not in SCHEMAS:
            raise ConfigError(
                f"-cc.splitting_ops: there is no op {name}; what a graph is usually split at is attention"
            )
    return frozenset(op for op in SCHEMAS if any(f"{op}_".startswith(f"{name}_") for name in names))


def split(graph: fx.Graph, splitting_ops: Sequence[str]) -> list[Piece]:
    """The pieces of a graph in order. Placeholders and the output belong to none."""
    names = splitting_names(splitting_ops)
    pieces: list[Piece] = []
    between: list[fx.Node] = []

    def end() -> None:
        if between:
            pieces.append(Piece(tuple(between), splits=False))
            between.clear()

    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if op_name(node) in names:
            end()
            pieces.append(Piece((node,), splits=True))
        elif not between and pieces and _is_item(node, pieces[-1].nodes[0]):
            pieces[-1] = replace(pieces[-1], nodes=(*pieces[-1].nodes, node))
        else:
            between.append(node)
    end()
    return pieces


def _is_item(node: fx.Node, of: fx.Node) -> bool:
    """Whether `node` is one of several results of an op."""
    return node.target is operator.getitem and node.args[0] is of


def fingerprint(nodes: Iterable[fx.Node]) -> str:
    """A text that sequences of nodes share if they compute the same from values of equal shapes and types."""
    places: dict[fx.Node, int] = {}
    lines: list[str] = []

    def place(node: fx.Node) -> str:
        if node not in places:  # it comes from elsewhere
            lines.append(f"placeholder {_shape(node)}")
            places[node] = len(places)
        return f"%{places[node]}"

    for node in nodes:
        if node.op == "placeholder":
            place(node)
            continue
        args = fx.node.map_arg((node.args, node.kwargs), place)
        lines.append(f"{node.op} {node.target} {args} {_shape(node)}")
        places[node] = len(places)
    return "\n".join(lines)


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.stride()}"
    return "" if value is None or isinstance(value, (tuple, list)) else str(value)
