"""Pieces that are no programs: with ops outside the vocabulary, which Inductor generates code for.

Pieces that are equal but for their constants are compiled once.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ozone.compilation.observer import Observer
from ozone.compilation.pieces import Piece, fingerprint
from ozone.compilation.step import Step, StepInputs, sizes_of
from ozone.compilation.traced import Argument, Traced
from ozone.engine.input_buffers import BatchCounts
from ozone.errors import ConfigError, clipped

logger = logging.getLogger("ozone")

Function = Callable[..., Any]


@dataclass(frozen=True)
class Backend:
    """Who compiles: ``inductor`` with its options, or ``eager``, which runs a graph as it is."""

    name: str
    options: Mapping[str, Any]

    def check(self, asked_by: str) -> None:
        """Raises: `ConfigError` where it cannot work here; `asked_by` names the setting that needs it."""
        if self.name == "inductor" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise ConfigError(
                f"{asked_by} needs Inductor, which needs a C++ compiler, and there is none: install g++, "
                "or set -cc.backend=eager or -cc.custom_ops=all"
            )

    def compile(
        self, module: fx.GraphModule, examples: Sequence[Tensor], known: Mapping[str, int]
    ) -> Function:
        """A function of the module's placeholders, for any number of tokens and requests; returns a tuple.

        Args:
            examples: one tensor for each placeholder. The first dimension of those that vary may be anything.
            known: sizes that do not vary, by their symbols: the function is for them alone.
        """
        if self.name == "eager":
            return module.forward
        from torch._dynamo.decorators import mark_unbacked

        for node, example in zip(module.graph.find_nodes(op="placeholder"), examples, strict=True):
            size = node.meta["val"].shape[0]
            if isinstance(size, torch.SymInt) and str(size) not in known:
                mark_unbacked(example, 0, shape_id=str(size))
        options = {**self.options, "guard_filter_fn": lambda guards: [False] * len(guards)}
        compiled: Function = torch.compile(
            module, backend="inductor", fullgraph=True, dynamic=False, options=options
        )
        with torch.inference_mode():
            compiled(*examples)  # compiles
        return compiled


@dataclass(frozen=True)
class Stage:
    """A piece as a function of values, and the values that it makes."""

    function: Function
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


class Functions:
    """Compiles pieces with a backend, once for all that are equal, whichever graph they are of."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._compiled: dict[tuple[str, tuple[tuple[str, int], ...]], Function] = {}

    def stage(
        self,
        module: fx.GraphModule,
        place: int,
        piece: Piece,
        constants: Mapping[fx.Node, Tensor],
        known: Mapping[str, int],
        observer: Observer,
    ) -> Stage:
        """A piece as a function.

        Args:
            place: which piece it is.
            constants: the model's, by their placeholders.
            known: as in `Backend.compile`.
        """
        graph, inputs, outputs = extract(module, piece)
        if piece.splits:
            return Stage(_as_it_is(piece), tuple(piece.nodes[0].all_input_nodes), outputs)
        key = fingerprint(graph.graph.nodes), tuple(known.items())
        if key not in self._compiled:
            examples = [constants[node] if node in constants else _example(node, known) for node in inputs]
            with observer.generates(place, self._backend.name):
                self._compiled[key] = self._compile(graph, examples, known, place)
        return Stage(self._compiled[key], inputs, outputs)

    def _compile(
        self, graph: fx.GraphModule, examples: Sequence[Tensor], known: Mapping[str, int], place: int
    ) -> Function:
        began = time.perf_counter()
        try:
            function = self._backend.compile(graph, examples, known)
        except Exception as error:
            names = sorted({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
            error.add_note(f"piece {place} of {clipped(', '.join(names))}")
            raise
        seconds = time.perf_counter() - began
        logger.debug("%s: piece %d in %.2f s", self._backend.name, place, seconds)
        return function


class GeneratedStep:
    """A step as compiled pieces, one after another. One caller at a time."""

    def __init__(
        self,
        traced: Traced,
        pieces: Sequence[Piece],
        step: Step,
        inputs: StepInputs,
        functions: Functions,
        progress: Callable[[int, int], None],
        observer: Observer,
        tokens: int | None = None,
    ) -> None:
        """Compiles; `progress` is called with (pieces done, pieces in all).

        Args:
            functions: what compiles pieces.
            tokens: the only number of tokens that it is for. None: any.

        Raises: the backend's own exceptions, with a note that names the piece.
        """
        constants = dict(step.constants())
        placeholders = traced.module.graph.find_nodes(op="placeholder")
        arguments = dict(zip(placeholders, traced.arguments, strict=True))
        self._constants = {
            node: constants[argument.name]
            for node, argument in arguments.items()
            if argument.kind == "constant"
        }
        self._variables = {node: value for node, value in arguments.items() if value.kind != "constant"}
        self._inputs = inputs
        (self._result,) = traced.module.graph.output_node().all_input_nodes
        known = {} if tokens is None else {_symbol_of_tokens(arguments): tokens}
        self._stages = []
        for place, piece in enumerate(pieces):
            stage = functions.stage(traced.module, place, piece, self._constants, known, observer)
            self._stages.append(stage)
            progress(place + 1, len(pieces))
        self._last_use = _last_uses(self._stages, self._result)

    def __call__(self, counts: BatchCounts) -> Tensor:
        """Run the step on what the inputs hold; hidden states (tokens, columns)."""
        known = {**sizes_of(counts), **self._inputs.of(counts)._asdict()}
        values: dict[fx.Node, Any] = dict(self._constants)
        for node, argument in self._variables.items():
            values[node] = known[argument.name]
        for stage, dead in zip(self._stages, self._last_use, strict=True):
            results = stage.function(*(values[node] for node in stage.inputs))
            values.update(zip(stage.outputs, results, strict=True))
            for node in dead:
                del values[node]
        hidden: Tensor = values[self._result]
        return hidden


def _symbol_of_tokens(arguments: Mapping[fx.Node, Argument]) -> str:
    (node,) = (node for node, argument in arguments.items() if argument.name == "token_ids")
    return str(node.meta["val"].shape[0])


_EXAMPLE_SIZE = 7


def _example(node: fx.Node, known: Mapping[str, int]) -> Tensor:
    """Zeros shaped like a value, of which some number of rows is taken where that varies."""
    value = node.meta["val"]
    if not isinstance(value.shape[0], torch.SymInt):
        return torch.zeros(value.shape, dtype=value.dtype)
    size = known.get(str(value.shape[0]), _EXAMPLE_SIZE)
    # There is a row more than that: ends of requests are looked up behind the last one.
    return torch.zeros(size + 1, *value.shape[1:], dtype=value.dtype)[:size]


def _as_it_is(piece: Piece) -> Function:
    """A splitting op runs between the pieces, as one call."""
    (node,) = piece.nodes
    target: Any = node.target
    places = {argument: place for place, argument in enumerate(node.all_input_nodes)}

    def call(*values: Any) -> tuple[Any]:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[places[n]])
        return (target(*args, **kwargs),)

    return call


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


def _last_uses(stages: Sequence[Stage], result: fx.Node) -> list[list[fx.Node]]:
    """For each stage, what nobody needs behind it."""
    last: dict[fx.Node, int] = {}
    for place, stage in enumerate(stages):
        for node in (*stage.inputs, *stage.outputs):
            if node.op != "placeholder":
                last[node] = place
    last.pop(result)
    return [[node for node, place in last.items() if place == here] for here in range(len(stages))]
