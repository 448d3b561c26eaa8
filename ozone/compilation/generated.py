"""From pieces to calls: libraries of generated code for what Inductor knows, and calls of all other ops.

Pieces that are equal but for their constants share a library.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from ozone.compilation.calls import Call, Calls, as_arguments, target_name
from ozone.compilation.libraries import Libraries
from ozone.compilation.observer import Observer
from ozone.compilation.pieces import Piece
from ozone.compilation.step import Step
from ozone.compilation.traced import Argument, Traced
from ozone.errors import clipped

logger = logging.getLogger("ozone")

# Namespaces of ops that Inductor generates code for. What else there is, such as our own vocabulary, would be
# a call back into Python from a library.
_GENERATED = ("aten", "prims")
# Of a size that varies, in an example. Any would do.
_EXAMPLE_SIZE = 7


def generated_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces cut further, so that each is code to generate or calls as they are: ops that Inductor knows
    nothing of, and views alone, which cost less than a library does.
    """
    return [part for piece in pieces for part in _parts(piece)]


def _parts(piece: Piece) -> Iterator[Piece]:
    if piece.splits:
        yield replace(piece, called=True)
        return
    groups: list[list[fx.Node]] = []
    foreign: set[fx.Node] = set()
    for node in piece.nodes:
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        # Items of a result are taken where it is made: a library takes and returns tensors.
        if _is_foreign_op(node) or (not isinstance(node.target, torch._ops.OpOverload) and source in foreign):
            foreign.add(node)
        if not groups or (groups[-1][-1] in foreign) != (node in foreign):
            groups.append([])
        groups[-1].append(node)
    for called, adjacent in itertools.groupby(groups, lambda group: not any(map(_computes, group))):
        yield Piece(tuple(itertools.chain.from_iterable(adjacent)), splits=False, called=called)


def _is_foreign_op(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target.namespace not in _GENERATED


def _computes(node: fx.Node) -> bool:
    """Whether a node is work for generated code."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or _is_foreign_op(node):
        return False
    return not target.is_view and isinstance(node.meta["val"], Tensor | tuple | list)


class Generator:
    """Makes calls of pieces, with a library for each kind of piece, whichever graph they are of."""

    def __init__(self, libraries: Libraries | None) -> None:
        """`libraries`: None where all ops run as they are."""
        self._libraries = libraries

    @property
    def backend(self) -> str:
        """Who compiles, as `-cc.backend` names it."""
        return "eager" if self._libraries is None else "inductor"

    def calls(
        self,
        traced: Traced,
        pieces: Sequence[Piece],
        step: Step,
        progress: Callable[[int, int], None],
        observer: Observer,
        tokens: int | None = None,
    ) -> Calls:
        """Calls of a whole graph, in these pieces; what they need is compiled.

        Args:
            progress: is called with (pieces done, pieces in all).
            tokens: the only number of tokens that they are for. None: any.

        Raises: the compiler's own exceptions, with a note that names the piece.
        """
        constants = dict(step.constants())
        numbers: dict[fx.Node, int] = {}
        placeholders = traced.module.graph.find_nodes(op="placeholder")
        arguments = dict(zip(placeholders, traced.arguments, strict=True))
        for node in placeholders:
            numbers[node] = len(numbers)
        examples = {
            node: constants[argument.name]
            for node, argument in arguments.items()
            if argument.kind == "constant"
        }
        known = {} if tokens is None else {_symbol_of_tokens(arguments): tokens}
        calls: list[Call] = []
        for place, piece in enumerate(pieces):
            if piece.called or piece.splits:
                calls += [_as_it_is(node, numbers) for node in piece.nodes]
            elif self._libraries is None:
                with observer.generates(place, self.backend):
                    calls += [_as_it_is(node, numbers) for node in piece.nodes]
            else:
                calls.append(self._library(traced.module, place, piece, examples, known, numbers, observer))
            progress(place + 1, len(pieces))
        (result,) = traced.module.graph.output_node().all_input_nodes
        return Calls(
            [(arguments[node].name, numbers[node]) for node in examples],
            [(arguments[node].name, numbers[node]) for node in arguments if node not in examples],
            calls,
            numbers[result],
        )

    def _library(
        self,
        module: fx.GraphModule,
        place: int,
        piece: Piece,
        constants: Mapping[fx.Node, Tensor],
        known: Mapping[str, int],
        numbers: dict[fx.Node, int],
        observer: Observer,
    ) -> Call:
        assert self._libraries is not None
        graph, inputs, outputs = extract(module, piece)
        key = self._libraries.key(graph.graph, known)
        if self._libraries.find(key) is None:
            examples = [constants[node] if node in constants else _example(node, known) for node in inputs]
            with observer.generates(place, self.backend):
                observer.generated(self._compile(key, graph, examples, known, place))
        for node in outputs:
            numbers[node] = len(numbers)
        args = [as_arguments(node, numbers.__getitem__) for node in inputs]
        return Call(key, True, args, {}, tuple(numbers[node] for node in outputs))

    def _compile(
        self,
        key: str,
        graph: fx.GraphModule,
        examples: Sequence[Tensor],
        known: Mapping[str, int],
        place: int,
    ) -> str:
        assert self._libraries is not None
        began = time.perf_counter()
        # Inductor takes the graph apart.
        names = sorted({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        where = f"piece {place} of {clipped(', '.join(names))}"
        try:
            source = self._libraries.compile(key, graph, examples, known)
        except Exception as error:
            error.add_note(where)
            raise
        logger.debug("%s: %s in %.2f s", self.backend, where, time.perf_counter() - began)
        return source


def _as_it_is(node: fx.Node, numbers: dict[fx.Node, int]) -> Call:
    args = [as_arguments(x, numbers.__getitem__) for x in node.args]
    kwargs = {name: as_arguments(x, numbers.__getitem__) for name, x in node.kwargs.items()}
    numbers[node] = len(numbers)
    return Call(target_name(node.target), False, args, kwargs, (numbers[node],))


def _symbol_of_tokens(arguments: Mapping[fx.Node, Argument]) -> str:
    (node,) = (node for node, argument in arguments.items() if argument.name == "token_ids")
    return str(node.meta["val"].shape[0])


def _example(node: fx.Node, known: Mapping[str, int]) -> Tensor:
    """Zeros shaped like a value, of which some number of rows is taken where that varies."""
    value = node.meta["val"]
    if not isinstance(value.shape[0], torch.SymInt):
        return torch.zeros(value.shape, dtype=value.dtype)
    return torch.zeros(known.get(str(value.shape[0]), _EXAMPLE_SIZE), *value.shape[1:], dtype=value.dtype)


def extract(
    module: fx.GraphModule, piece: Piece
) -> tuple[fx.GraphModule, tuple[fx.Node, ...], tuple[fx.Node, ...]]:
    """The piece as a module of its own, which returns a tuple, and the values that it takes and makes.

    It takes tensors only: a size that it needs is read from one of them.
    """
    own = set(piece.nodes)
    taken = dict.fromkeys(
        argument for node in piece.nodes for argument in node.all_input_nodes if argument not in own
    )
    tensors = tuple(node for node in taken if isinstance(node.meta["val"], Tensor))
    outputs = tuple(node for node in piece.nodes if any(user not in own for user in node.users))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for place, argument in enumerate(tensors):
        copies[argument] = graph.placeholder(f"in_{place}")
        copies[argument].meta = dict(argument.meta)
    for argument in taken.keys() - set(tensors):
        size = argument.meta["val"]
        source = next(t for t in tensors if t.meta["val"].dim() and str(t.meta["val"].shape[0]) == str(size))
        copies[argument] = graph.call_function(torch.ops.aten.sym_size.int, (copies[source], 0))
    for node in piece.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    return fx.GraphModule(module, graph), tensors, outputs
