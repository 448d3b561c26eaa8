"""Lowering: nodes of the vocabulary become the launches that their native functions make.

Each piece is run once with tensors that have addresses and no memory: kernels are recorded, not run, results
come from a planned pool, views cost nothing. What is left is a program without an address in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ozone.compilation.failures import ForeignOpError
from ozone.compilation.observer import Observer
from ozone.compilation.pieces import Piece
from ozone.compilation.pool import PlannedPool
from ozone.compilation.step import SIZES, Step, StepInputs, sizes_of
from ozone.compilation.traced import Traced
from ozone.engine.input_buffers import BatchCounts
from ozone.native import library
from ozone.ops.registry import OPS

_ALLOCATIONS = frozenset(
    {
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.new_empty.default,
    }
)


@dataclass(frozen=True)
class Result:
    """Where in the pool a step leaves its result: (tokens, columns), dense."""

    offset: int
    columns: int
    dtype: torch.dtype


@dataclass(frozen=True)
class LoweredPiece:
    """A piece as a program. `splits`: whether it is a splitting op."""

    program: Any
    splits: bool


@dataclass(frozen=True)
class Lowered:
    """A graph as programs over the same memory.

    Attributes:
        memory: names of the spans that the programs point into: inputs, then constants. The pool is the last
            span and has no name.
        pool_bytes: what the pool needs for the most tokens and requests.
    """

    pieces: tuple[LoweredPiece, ...]
    memory: tuple[str, ...]
    pool_bytes: int
    result: Result


Made = TypeVar("Made")


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs native functions so that their launches are recorded and their results lie in the pool."""

    def __init__(self, pool: PlannedPool, *, foreign: bool = False) -> None:
        """`foreign`: whether ops outside the vocabulary are no error, and leave room for their results."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._pool = pool
        self._foreign = foreign
        self._of_op: list[Tensor] | None = None  # what the op that is running has allocated

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is traced while this records, and torch would import Dynamo to skip it (1 s)."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "ozone":
            # A launch knows addresses alone: what a function allocates for it has to stay until the function
            # is done, whether the function itself holds it or not.
            held, self._of_op = self._of_op, []
            try:
                with self:
                    return OPS[func._opname].function(*args, **kwargs)
            finally:
                self._of_op = held
        if func in _ALLOCATIONS:
            return self._allocate(func(*args, **{**kwargs, "device": "meta"}))
        if func._can_decompose():
            # What may be a view or a copy, such as `to` and `reshape`, is made of ops that are one of both.
            with self:
                return func.decompose(*args, **kwargs)
        if func.is_view:
            return func(*args, **kwargs)
        if self._foreign:
            like = func(*pytree.tree_map_only(Tensor, _without_memory, args), **kwargs)
            return pytree.tree_map_only(Tensor, self._allocate, like)
        raise ForeignOpError(str(func))

    def _allocate(self, like: Tensor) -> Tensor:
        if like.numel() == 0:
            return torch.empty(like.shape, dtype=like.dtype)
        tensor = self._pool.empty(like.shape, like.dtype)
        if self._of_op is not None:
            self._of_op.append(tensor)
        return tensor


def _without_memory(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


@dataclass(frozen=True)
class Capacity:
    """The most of everything that a step may have, and so the sizes that programs are made for."""

    tokens: int
    requests: int


def lower(
    traced: Traced,
    pieces: Sequence[Piece],
    step: Step,
    inputs: StepInputs,
    capacity: Capacity,
    observer: Observer | None = None,
) -> Lowered:
    """Make programs of all pieces of a traced step.

    Raises: `ForeignOpError` where a piece has an op that is not of the vocabulary; other exceptions with
        notes that name piece and op.
    """
    watch = observer or Observer()
    return for_some_sizes(capacity, lambda sizes: _Lowering(traced, step, inputs, sizes, watch).run(pieces))


def capture(step: Step, inputs: StepInputs, capacity: Capacity, observer: Observer | None = None) -> Lowered:
    """Make one program of a step that was not traced, by running it.

    Raises: `ForeignOpError` where it calls an op that is not of the vocabulary.
    """
    watch = observer or Observer()
    return for_some_sizes(capacity, lambda sizes: _captured(step, inputs, sizes, watch))


def for_some_sizes(capacity: Capacity, attempt: Callable[[Sizes], Made]) -> Made:
    """What `attempt` makes with sizes that its launches can be told apart by."""
    sizes = Sizes.at_least(capacity)
    while True:
        try:
            return attempt(sizes)
        except ValueError as error:
            # A size that happens to divide another number of a launch: others will not.
            if "a multiple of" not in str(error) or sizes.tokens > 4 * capacity.tokens + _LARGE:
                raise
            sizes = Sizes.at_least(Capacity(sizes.tokens + 1, sizes.requests + 1))


_LARGE = 4096


@dataclass(frozen=True)
class Sizes:
    """Primes, since a count of a launch is recognized by what divides it."""

    tokens: int
    requests: int
    logits: int

    @staticmethod
    def at_least(capacity: Capacity) -> Sizes:
        requests = _prime(max(capacity.requests, 101))
        tokens = _prime(max(capacity.tokens, requests + 1))
        return Sizes(tokens, requests, _prime(tokens + 1))

    @property
    def header(self) -> list[int]:
        return [self.tokens, self.requests, self.logits]

    @property
    def by_name(self) -> dict[str, int]:
        return sizes_of(BatchCounts(self.tokens, self.requests, self.logits))


def _prime(least: int) -> int:
    n = least
    while any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n


@contextmanager
def recording() -> Iterator[Any]:
    """Yields what takes down, as `Launches`, what is launched meanwhile instead of being run."""
    native = library()
    assert native is not None, "programs are made where the native library is"
    launches = native.Launches()
    with torch.inference_mode():
        launches.record(dry=True)
        try:
            yield launches
        finally:
            native.Launches.stop()


class _Memory:
    """What a program is made over: inputs without memory behind them, constants, and a pool."""

    def __init__(self, inputs: StepInputs, sizes: Sizes, observer: Observer) -> None:
        self.pool = PlannedPool(observer.lowers())
        dry = PlannedPool()
        self.inputs = StepInputs(
            *(
                dry.empty((sizes.by_name[size], *x.shape[1:]), x.dtype)
                for x, size in zip(inputs, SIZES, strict=True)
            )
        )
        self._header = sizes.header
        self._tensors: dict[str, Tensor] = self.inputs._asdict()

    def add(self, name: str, constant: Tensor) -> None:
        self._tensors[name] = constant

    def program(self, launches: Any) -> Any:
        """What was recorded, as a program over all this."""
        spans = [*map(span_of, self._tensors.values()), self.pool.span]
        return launches.store(self._header, spans)

    def lowered(self, pieces: Sequence[LoweredPiece], result: Tensor) -> Lowered:
        assert result.is_contiguous()
        where = Result(self.pool.offset(result), result.shape[1], result.dtype)
        return Lowered(tuple(pieces), tuple(self._tensors), self.pool.size, where)


def _captured(step: Step, inputs: StepInputs, sizes: Sizes, observer: Observer) -> Lowered:
    memory = _Memory(inputs, sizes, observer)
    for name, constant in step.constants():
        memory.add(name, constant)
    with recording() as launches, Recording(memory.pool):
        result = step(*memory.inputs)
    return memory.lowered([LoweredPiece(memory.program(launches), splits=False)], result)


class _Lowering:
    """One attempt: the values of a graph's nodes, piece by piece."""

    def __init__(
        self, traced: Traced, step: Step, inputs: StepInputs, sizes: Sizes, observer: Observer
    ) -> None:
        self._observer = observer
        self._memory = _Memory(inputs, sizes, observer)
        self._recording = Recording(self._memory.pool)
        constants, examples = dict(step.constants()), self._memory.inputs._asdict()
        self._output = traced.module.graph.output_node()
        self._values: dict[fx.Node, Any] = {}
        placeholders = traced.module.graph.find_nodes(op="placeholder")
        for node, argument in zip(placeholders, traced.arguments, strict=True):
            if argument.kind == "size":
                self._values[node] = sizes.by_name[argument.name]
            elif argument.kind == "input":
                self._values[node] = examples[argument.name]
            else:
                self._values[node] = constants[argument.name]
                self._memory.add(argument.name, constants[argument.name])
        self._last_use = _last_uses(traced.module.graph)

    def run(self, pieces: Sequence[Piece]) -> Lowered:
        lowered = [self._piece(place, piece) for place, piece in enumerate(pieces)]
        (result,) = (self._values[node] for node in self._output.all_input_nodes)
        return self._memory.lowered(lowered, result)

    def _piece(self, place: int, piece: Piece) -> LoweredPiece:
        try:
            with recording() as launches:
                for node in piece.nodes:
                    self._run(node)
                    self._observer.lowered_node(node, len(launches))
            return LoweredPiece(self._memory.program(launches), piece.splits)
        except Exception as error:
            error.add_note(f"piece {place}")
            raise

    def _run(self, node: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        target: Any = node.target
        # What is no op is arithmetic on sizes, or an item of a tuple.
        recording = self._recording if isinstance(target, torch._ops.OpOverload) else nullcontext()
        try:
            with recording:
                self._values[node] = target(*args, **kwargs)
        except ForeignOpError as error:
            raise ForeignOpError(error.name, node.name) from None
        except Exception as error:
            error.add_note(f"{target} ({node.name})")
            raise
        del args, kwargs
        for dead in self._last_use.get(node, ()):
            del self._values[dead]


def _last_uses(graph: fx.Graph) -> Mapping[fx.Node, list[fx.Node]]:
    """Which values nobody needs any more, once a node has run."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for argument in node.all_input_nodes:
            last[argument] = node
    uses: dict[fx.Node, list[fx.Node]] = {}
    for value, user in last.items():
        if value.op != "placeholder":
            uses.setdefault(user, []).append(value)
    return uses


def span_of(tensor: Tensor) -> tuple[int, int]:
    """Address and bytes of all the memory that a tensor is a view of."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
