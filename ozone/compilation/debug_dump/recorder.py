"""The observer that writes a dump: each file as soon as there is something to put in, the page in the end."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import fx

from ozone.compilation.compiler import Phase
from ozone.compilation.debug_dump.directory import DumpDirectory
from ozone.compilation.debug_dump.launches import launch_lines
from ozone.compilation.debug_dump.listing import Names, difference, listing, op_names, statement
from ozone.compilation.debug_dump.page import page, piece_lines, report
from ozone.compilation.debug_dump.records import (
    BufferRecord,
    ChangeRecord,
    DumpRecord,
    GraphRecord,
    NodeRecord,
    PhaseRecord,
    PieceRecord,
)
from ozone.compilation.lowering import Lowered
from ozone.compilation.observer import Changed, Observer
from ozone.compilation.pass_manager import PassReport
from ozone.compilation.pieces import Piece, fingerprint
from ozone.compilation.traced import Traced
from ozone.compilation.tuning.choosing import DEFAULT, Figure, differing
from ozone.compilation.tuning.keeping import ShapeChoice
from ozone.compilation.tuning.tuner import Tuning
from ozone.config.report import settings_json, settings_rows, table
from ozone.config.schema import OzoneConfig
from ozone.config.values import show
from ozone.native import library
from ozone.version import __version__

logger = logging.getLogger("ozone")

DEAD_CODE = "what nobody needs"
_WIDE = 10_000


class DebugDump(Observer):
    """A dump of one start, in `path`, in place of the one that was there.

    A context manager: the page is written when it ends, also when it ends with an exception.
    """

    def __init__(self, config: OzoneConfig, path: str) -> None:
        """Raises: `ConfigError` where `path` cannot be written."""
        self._directory = DumpDirectory(path)
        self._directory.clear()
        self._record = DumpRecord(_overview(config), settings_rows(config)[1:])
        self._record.notes.extend(config.notices)
        self._began, self._own_seconds = time.perf_counter(), 0.0
        self._names = Names()
        self._listing: list[str] = []  # of the graph at hand, as the last pass left it
        self._pieces: Sequence[Piece] = ()
        self._launches: dict[fx.Node, int] = {}
        self._generated: dict[str, str] = {}  # what pieces became, by their fingerprints
        self._pool = _Pool()
        self._cpp: list[str] = []  # the source code of the library that is being compiled
        self._directory.write("config.json", json.dumps(settings_json(config), indent=2))
        self._directory.write("config.txt", "\n".join(table(settings_rows(config), _WIDE)) + "\n")

    def __enter__(self) -> DebugDump:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        record = self._record
        if error is not None:
            record.problem = f"{type(error).__name__}: {error}"
            record.error = "".join(traceback.format_exception(kind, error, frames))
            self._directory.write("error.txt", record.error)
        self._directory.write("report.json", json.dumps(report(record), indent=2))
        self._directory.write("index.html", page(record))
        logger.info("debug dump: %s", self._directory.path / "index.html")

    def timed(self, phase: Phase) -> Phase:
        """`phase`, which the dump takes down too."""

        @contextlib.contextmanager
        def timing(name: str) -> Iterator[None]:
            began, own = time.perf_counter(), self._own_seconds
            try:
                with phase(name):
                    yield
            finally:
                seconds = time.perf_counter() - began - (self._own_seconds - own)
                self._record.phases.append(PhaseRecord(name, began - self._began, seconds))

        return timing

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        """What happens within is the dump's own work, and no phase's."""
        began = time.perf_counter()
        yield
        self._own_seconds += time.perf_counter() - began

    @property
    def _graph(self) -> GraphRecord:
        return self._record.graphs[-1]

    def _write(self, name: str, lines: Sequence[str]) -> None:
        self._directory.write(name, "".join(f"{line}\n" for line in lines))

    def noted(self, text: str) -> None:
        self._record.notes.append(text)

    def tuned(self, tuning: Tuning) -> None:
        self._record.tuning = tuning.origin
        self._record.choices = [
            (choice.kernel, choice.label, differing(choice.spans) or DEFAULT, _times(choice))
            for choice in tuning.choices
        ]
        rows = [("kernel", "shape", "ways", "median times"), *self._record.choices]
        self._write("tuning.txt", [self._record.tuning, *table(rows, _WIDE)])

    def traced(self, traced: Traced) -> None:
        # Whatever was made before was in vain, a note says why.
        self._record.graphs.clear()
        self._generated.clear()
        self._names = Names.of(traced)
        self._show_traced(traced.module.graph)

    def _show_traced(self, graph: fx.Graph) -> None:
        self._record.traced = self._listing = listing(graph, self._names)
        self._write("traced.py", self._record.traced)

    def _begin(self, name: str, title: str) -> None:
        self._record.graphs.append(GraphRecord(f"graph-{name}", title))
        self._pieces, self._launches = (), {}

    def begins(self, first: int, last: int, traced: Traced) -> None:  # noqa: ARG002 (its listing is known)
        if first == last:
            self._begin(f"{first}-tokens", f"exactly {first} tokens")
        else:
            self._begin(f"{first}-{last}-tokens", f"{first} to {last} tokens")
        self._listing = self._record.traced

    def rewrote(self, graph: fx.Graph, report: PassReport | None) -> None:
        with self._own():
            before, self._listing = self._listing, listing(graph, self._names)
            changed = difference(before, self._listing)
            if report is None:
                if not changed:
                    return
                change = ChangeRecord(DEAD_CODE, None, None, None, self._listing, changed)
            else:
                flag, places, seconds = report.flag, report.places, report.seconds
                change = ChangeRecord(flag, places, seconds, report.reason, self._listing, changed)
            changes = self._graph.changes
            changes.append(change)
            name = f"{self._graph.name}/{len(changes)}-{change.name.replace(' ', '-')}"
            self._write(f"{name}.py", change.listing)
            self._write(f"{name}.diff", change.difference)

    def split(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        kinds: dict[str, str] = {}
        for place, piece in enumerate(pieces):
            code = fingerprint(piece.nodes)
            kind = kinds.setdefault(code, _letters(len(kinds)))
            self._add_piece(place, kind, piece.splits, piece.nodes)
            as_it_is = piece.splits or piece.called
            self._graph.pieces[-1].how = "a call, as it is" if as_it_is else self._generated.get(code, "")
        self._write_pieces()

    def _add_piece(self, place: int, kind: str, splits: bool, nodes: Sequence[fx.Node]) -> None:
        lines = (statement(node, self._names) for node in nodes)
        records = [NodeRecord(line) for line in lines if line is not None]
        self._graph.pieces.append(PieceRecord(place, kind, splits, op_names(nodes), records))

    def _write_pieces(self) -> None:
        lines = [line for piece in self._graph.pieces for line in piece_lines(self._graph, piece)]
        self._write(f"{self._graph.name}/pieces.txt", lines)

    def lowers(self) -> Changed:
        self._launches, self._pool = {}, _Pool()
        return self._pool.changed

    def lowered_node(self, node: fx.Node, launches: int) -> None:
        self._launches[node] = launches
        self._pool.step += 1

    def lowered(self, lowered: Lowered) -> None:
        for piece, record, made in zip(self._pieces, self._graph.pieces, lowered.pieces, strict=True):
            lines = launch_lines(made.program, lowered.memory)
            record.how = "a program of native kernels"
            nodes = [(node, statement(node, self._names)) for node in piece.nodes]
            records, done = iter(record.nodes), 0
            for node, line in nodes:
                if line is not None:
                    next(records).launches, done = lines[done : self._launches[node]], self._launches[node]
        self._graph.steps = [node.name for piece in self._pieces for node in piece.nodes]
        self._finish(lowered)

    def captured(self, tokens: int, lowered: Lowered) -> None:
        with self._own():
            self._begin("captured", f"recorded from a run, for up to {tokens} tokens")
            (made,) = lowered.pieces
            whole = NodeRecord("model(...)", launch_lines(made.program, lowered.memory))
            how = "a program of native kernels"
            self._graph.pieces.append(PieceRecord(0, "A", False, ["the whole model"], [whole], how))
            self._graph.steps = ["model"]
            self._finish(lowered)

    def _finish(self, lowered: Lowered) -> None:
        graph = self._graph
        graph.pool_bytes, graph.buffers = lowered.pool_bytes, self._pool.end()
        self._write_pieces()
        self._write(f"{graph.name}/memory.txt", _memory_lines(graph))

    def generates(self, place: int, backend: str) -> AbstractContextManager[None]:
        return self._generating(place, backend)

    @contextlib.contextmanager
    def _generating(self, place: int, backend: str) -> Iterator[None]:
        began = time.perf_counter()
        self._cpp.clear()
        with _sources(backend) as python:
            yield
        seconds = time.perf_counter() - began
        sources = self._cpp or python
        graph = self._graph
        piece = graph.pieces[place]
        piece.seconds, piece.source = seconds, "\n".join(sources)
        if sources:
            name = f"{graph.name}/{place}-{backend}.{'cpp' if self._cpp else 'py'}"
            self._directory.write(name, piece.source)
            how = f"code of {backend}"
        else:
            how = f"{backend}, op by op" if backend == "eager" else backend
        for equal in graph.kinds[piece.kind]:
            graph.pieces[equal].how = how
        if self._pieces:
            code = fingerprint(self._pieces[place].nodes)
            self._generated.setdefault(code, f"{how}, as for {graph.title}" if sources else how)
        self._write_pieces()

    def generated(self, source: str) -> None:
        self._cpp.append(source)

    def watched(self, backend: str, options: dict[str, Any] | None) -> Callable[..., Any]:
        def compile_watched(module: fx.GraphModule, examples: Sequence[Any], **_: Any) -> Callable[..., Any]:
            self._show_traced(module.graph)
            self._begin("whole", "any number of tokens, whole")
            nodes = [node for node in module.graph.nodes if node.op not in ("placeholder", "output")]
            self._add_piece(0, "A", False, nodes)
            compiled: Callable[..., Any] = _compiler(backend, options)(module, examples)
            return compiled

        return compile_watched


def _times(choice: ShapeChoice) -> str:
    """As ``1: default 6.8 us, near 8.6 us; 2: ...`` by number of rows."""

    def of(made: Figure) -> str:
        return ", ".join(f"{way} {seconds * 1e6:.1f} us" for way, seconds in made.seconds.items())

    return "; ".join(f"{made.rows}: {of(made)}" for made in choice.figures)


def _overview(config: OzoneConfig) -> list[tuple[str, str]]:
    compilation, native = config.compilation, library()
    return [
        ("model", config.model.model),
        ("level", f"-O{config.optimization_level}"),
        ("mode", compilation.mode.name),
        ("custom ops", show(compilation.custom_ops)),
        ("graphs", compilation.cudagraph_mode.name),
        ("weights and activations", config.model.dtype),
        ("instruction set", "none: the native library is not built" if native is None else native.isa()),
        ("threads", str(config.parallel.num_threads)),
        ("made by", f"Ozone {__version__}, torch {torch.__version__}"),
        ("made at", time.strftime("%Y-%m-%d %H:%M:%S %Z")),
    ]


class _Pool:
    """Who has which bytes of the pool while programs are made. `step`: how many nodes have been lowered."""

    def __init__(self) -> None:
        self.step = 0
        self._taken: dict[int, BufferRecord] = {}
        self._buffers: list[BufferRecord] = []
        self._ended = False

    def changed(self, begin: int, end: int, taken: bool) -> None:
        """See `Changed`."""
        if self._ended:
            return
        if taken:
            self._taken[begin] = BufferRecord(begin, end - begin, self.step, self.step)
            self._buffers.append(self._taken[begin])
        else:
            self._taken.pop(begin).last = self.step

    def end(self) -> list[BufferRecord]:
        """All buffers. What nobody has given back is in use to the end."""
        self._ended = True
        for buffer in self._taken.values():
            buffer.last = max(self.step - 1, 0)
        for buffer in self._buffers:
            buffer.last = min(buffer.last, max(self.step - 1, 0))
        return self._buffers


def _memory_lines(graph: GraphRecord) -> list[str]:
    lines = [f"pool of {graph.pool_bytes} bytes", f"{'offset':>12}{'bytes':>12}  in use"]
    for buffer in graph.buffers:
        first, last = graph.steps[buffer.first], graph.steps[buffer.last]
        lines.append(f"{buffer.offset:>12}{buffer.size:>12}  {first} to {last}")
    return lines


def _letters(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


@contextlib.contextmanager
def _sources(backend: str) -> Iterator[list[str]]:
    """Yields what gets all source code that Inductor generates within."""
    sources: list[str] = []
    if backend != "inductor":
        yield sources
        return
    from torch._inductor.graph import GraphLowering

    before = GraphLowering.save_output_code
    GraphLowering.save_output_code = sources.append
    try:
        yield sources
    finally:
        GraphLowering.save_output_code = before


def _compiler(backend: str, options: dict[str, Any] | None) -> Callable[..., Any]:
    """What `torch.compile` calls for a backend by its name."""
    if backend == "inductor":
        wrapper: Any = torch._TorchCompileInductorWrapper
        compiler: Callable[..., Any] = wrapper("default" if not options else None, options, False)
        return compiler
    from torch._dynamo.backends.registry import lookup_backend

    found: Callable[..., Any] = lookup_backend(backend)
    return found
