"""Layers that repeat: a few of them are traced, and the graph of the others is copied from theirs.

Tracing takes as long as there are layers, and most layers of a model differ in their weights alone. Of such a
run of equal periods (a period is one layer, or several where kinds alternate) three are traced: one to come
from, one to copy, and one to go on to, which also proves the copy: it has to be what the copy's rule makes of
the second, node by node.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ozone.compilation.described import Describer, UndescribableError, metadata
from ozone.compilation.step import KV_CACHE_PREFIX, Step
from ozone.compilation.traced import Argument, Traced

if TYPE_CHECKING:
    from ozone.models.causal_lm import CausalLM

_PERIODS = 3
_LAYER_PREFIX = "layers."


@dataclass(frozen=True)
class Plan:
    """Which layers to trace, and which to copy.

    Attributes:
        layers: those to trace, by their place in the model.
        first: the first layer of the first period that is traced.
        period: layers of a period.
        copied: the first layers of the periods that are left out.
    """

    layers: tuple[int, ...]
    first: int
    period: int
    copied: tuple[int, ...]


def plan_for(kinds: Sequence[int]) -> Plan | None:
    """What to trace of layers of these kinds, as little as possible; None where that is all of them.

    The first layer is never among those that repeat: nothing is in the residual stream before it.
    """
    count, best = len(kinds), (0, 0, 0)
    for first in range(1, count):
        for period in range(1, (count - first) // (_PERIODS + 1) + 1):
            saved = (_periods(kinds, first, period) - _PERIODS) * period
            best = max(best, (saved, -first, -period))
    saved, first, period = best[0], -best[1], -best[2]
    if saved == 0:
        return None
    end = first + (_PERIODS - 1) * period  # of the second period
    copied = range(end, end + saved)
    return Plan(tuple(i for i in range(count) if i not in copied), first, period, tuple(copied[::period]))


def _periods(kinds: Sequence[int], first: int, period: int) -> int:
    """How many equal periods follow each other from layer `first` on."""
    ends = itertools.count(first, period)
    return sum(
        1 for _ in itertools.takewhile(lambda i: kinds[i : i + period] == kinds[first : first + period], ends)
    )


def plan_of(step: Step) -> Plan | None:
    """`plan_for` the layers of a step's model."""
    return plan_for(kinds_of(step.model.layers, step.kv_caches))


@contextmanager
def only(model: CausalLM, layers: Sequence[int]) -> Iterator[None]:
    """While it is entered, `model` has these of its layers and no others."""
    all_layers = model.layers
    model.layers = nn.ModuleList(all_layers[i] for i in layers)
    try:
        yield
    finally:
        model.layers = all_layers


def kinds_of(layers: nn.ModuleList, kv_caches: Sequence[Sequence[Tensor | None]]) -> list[int]:
    """For each layer the place of the first one that computes the same from weights of the same shapes.

    What a layer computes has to follow from its own attributes and those of its parts.
    """
    try:
        shared = _shared(layers)
        described = [
            (_OfLayer(place, shared).modules(layer), _tensors(layer, kv_caches[place], shared))
            for place, layer in enumerate(layers)
        ]
    except UndescribableError:
        return list(range(len(layers)))
    return [described.index(one) for one in described]


def _shared(layers: nn.ModuleList) -> dict[int, Any]:
    """What more than one layer holds, by identity; what identifies it lives as long as this."""
    times: Counter[int] = Counter()
    kept = []
    for layer in layers:
        describer = Describer()
        describer.modules(layer)
        kept.append(describer)
        times.update({*describer.met, *(id(tensor) for _, tensor in _named(layer))})
    return {key: kept for key, count in times.items() if count > 1}


def _named(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from layer.named_parameters(remove_duplicate=False)
    yield from layer.named_buffers(remove_duplicate=False)


def _tensors(layer: nn.Module, cache: Sequence[Tensor | None], shared: Container[int]) -> list[Any]:
    weights = [(name, metadata(x), id(x) if id(x) in shared else None) for name, x in _named(layer)]
    return [weights, [None if x is None else metadata(x) for x in cache]]


class _OfLayer(Describer):
    """Describes layers alike that differ in their place alone; what they share is itself."""

    def __init__(self, place: int, shared: Container[int]) -> None:
        super().__init__()
        self._place, self._shared = place, shared

    def attribute(self, key: str, x: Any) -> Any:
        return "its place" if key == "layer" and x == self._place else super().attribute(key, x)

    def value(self, x: Any) -> Any:
        if isinstance(x, str):
            x = x.replace(f"{_LAYER_PREFIX}{self._place}.", f"{_LAYER_PREFIX}*.")
        return super().value(x)

    def object(self, x: Any) -> Any:
        return ("shared", id(x)) if id(x) in self._shared else super().object(x)


def repeat(traced: Traced, plan: Plan) -> bool:
    """Copy what was not traced into `traced`; False, and nothing is changed, if its layers do not repeat."""
    graph = traced.module.graph
    second, third = plan.first + plan.period, plan.copied[-1] + plan.period
    constants = _Constants(traced, second, plan.period)
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    places = [_first_use(nodes, constants.names, layer) for layer in (plan.first, second, third)]
    if None in places:
        return False
    # Where the three periods begin, and what becomes of the nodes of two in the one behind.
    one, two, three = (place for place in places if place is not None)
    length = two - one
    following = dict(zip(nodes[one:three], nodes[two : three + length], strict=False))
    if three - two != length or len(following) != 2 * length:
        return False
    before, copied, target = nodes[one:two], nodes[two:three], nodes[three : three + length]
    behind = [*nodes[three + length :], graph.output_node()]

    def in_third(node: fx.Node) -> fx.Node | None:
        return following[node] if node in following else constants.known(node, third)

    if not all(_same(node, following[node], in_third) for node in copied):
        return False
    if any(argument in following for node in behind for argument in node.all_input_nodes):
        return False
    # What nodes of the first two periods are in the last two that are there so far.
    now = {node: following[node] for node in before}
    for first in plan.copied:
        with graph.inserting_before(target[0]):
            _copy(graph, copied, now, functools.partial(constants.get, first=first))
        made = [now[node] for node in copied]
        now = dict(zip(before, made, strict=True))
    last = dict(zip(copied, made, strict=True))
    for node in target:
        for argument in node.all_input_nodes:
            if argument in last:
                node.replace_input_with(argument, last[argument])
    traced.arguments.extend(constants.added)
    traced.module.recompile()
    return True


def _copy(
    graph: fx.Graph,
    nodes: Sequence[fx.Node],
    now: dict[fx.Node, fx.Node],
    constant: Callable[[fx.Node], fx.Node],
) -> None:
    """Copy nodes, with what they are now in place of what they read; `now` is told of the copies."""
    for node in nodes:
        now[node] = graph.node_copy(node, lambda read: now.get(read) or constant(read))


class _Constants:
    """The constants of a graph, and those of layers to come.

    Attributes:
        names: of the constants, by their placeholders.
        added: arguments for placeholders that were made, in their order.
    """

    def __init__(self, traced: Traced, source: int, period: int) -> None:
        """`source`: the first layer of the period that is copied."""
        self._graph = traced.module.graph
        self._source, self._period = source, period
        placeholders = self._graph.find_nodes(op="placeholder")
        self.names: dict[fx.Node, str] = {
            node: argument.name
            for node, argument in zip(placeholders, traced.arguments, strict=True)
            if argument.kind == "constant"
        }
        self.added: list[Argument] = []
        self._by_name = {name: node for node, name in self.names.items()}
        self._last: fx.Node = placeholders[-1]

    def known(self, node: fx.Node, first: int) -> fx.Node | None:
        """What a node from outside the period is to the period that begins with layer `first`; None for a
        constant that is not there.
        """
        return self._by_name.get(self._renamed(node, first)) if node in self.names else node

    def get(self, node: fx.Node, first: int) -> fx.Node:
        """As `known`; what is not there is made."""
        found = self.known(node, first)
        return self._make(node, self._renamed(node, first), first) if found is None else found

    def _make(self, node: fx.Node, name: str, first: int) -> fx.Node:
        with self._graph.inserting_after(self._last):
            self._last = self._graph.placeholder(f"{node.target}_{first}")
        self._last.meta = dict(node.meta)
        self._by_name[name] = self._last
        self.added.append(Argument("constant", name))
        return self._last

    def _renamed(self, node: fx.Node, first: int) -> str:
        """The name of the same constant in the period that begins with layer `first`."""
        name = self.names[node]
        for prefix in (_LAYER_PREFIX, KV_CACHE_PREFIX):
            place, dot, rest = name.removeprefix(prefix).partition(".")
            if name.startswith(prefix) and dot and 0 <= int(place) - self._source < self._period:
                return f"{prefix}{int(place) - self._source + first}.{rest}"
        return name


def _first_use(nodes: Sequence[fx.Node], constants: Mapping[fx.Node, str], layer: int) -> int | None:
    """The first node that reads a weight of a layer, by its place."""
    prefix = f"{_LAYER_PREFIX}{layer}."
    return next(
        (
            place
            for place, node in enumerate(nodes)
            if any(constants.get(argument, "").startswith(prefix) for argument in node.all_input_nodes)
        ),
        None,
    )


def _same(node: fx.Node, other: fx.Node, counterpart: Callable[[fx.Node], fx.Node | None]) -> bool:
    """Whether `other` is to its period what `node` is to its own."""
    same = (node.op, node.target, _value(node)) == (other.op, other.target, _value(other))
    args = fx.node.map_arg((node.args, node.kwargs), counterpart)
    return same and bool(args == (other.args, other.kwargs))


def _value(node: fx.Node) -> list[Any]:
    """Types, shapes and strides of what a node makes."""
    return [
        (str(part.shape), part.dtype, str(part.stride())) if isinstance(part, Tensor) else str(part)
        for part in pytree.tree_leaves(node.meta.get("val"))
    ]
