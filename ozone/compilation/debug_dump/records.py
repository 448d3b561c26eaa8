"""What a dump holds, as text and numbers: filled while a model is compiled, then written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class PhaseRecord:
    """A phase of the compilation: seconds since the dump began, and its own without the dump's work in it."""

    name: str
    begin: float
    seconds: float


@dataclass
class ChangeRecord:
    """What a pass did. `name`: its flag; `places` is None for removing what nobody needs."""

    name: str
    places: int | None
    seconds: float | None
    reason: str | None
    listing: list[str]
    difference: list[str]


@dataclass
class NodeRecord:
    """A line of a piece, and its kernel launches."""

    statement: str
    launches: list[str] = field(default_factory=list)


@dataclass
class PieceRecord:
    """A piece of a graph.

    Attributes:
        kind: a letter that equal pieces share.
        splits: whether it is a splitting op.
        ops: those that it calls, in order.
        how: what it runs as.
        source: code that a compiler made of it.
        seconds: what that took.
    """

    place: int
    kind: str
    splits: bool
    ops: Sequence[str]
    nodes: list[NodeRecord]
    how: str = ""
    source: str = ""
    seconds: float | None = None

    @property
    def launches(self) -> int:
        return sum(len(node.launches) for node in self.nodes)


@dataclass
class BufferRecord:
    """Bytes of the pool, in use from the node at place `first` to that at `last`."""

    offset: int
    size: int
    first: int
    last: int


@dataclass
class GraphRecord:
    """The graph of a range of token counts.

    Attributes:
        name: of its folder.
        title: which steps it is for.
        steps: of memory, named by the node that is computed there.
    """

    name: str
    title: str
    changes: list[ChangeRecord] = field(default_factory=list)
    pieces: list[PieceRecord] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    buffers: list[BufferRecord] = field(default_factory=list)
    pool_bytes: int | None = None

    @property
    def launches(self) -> int:
        return sum(piece.launches for piece in self.pieces)

    @property
    def kinds(self) -> dict[str, list[int]]:
        """The places of the pieces of each kind."""
        places: dict[str, list[int]] = {}
        for piece in self.pieces:
            places.setdefault(piece.kind, []).append(piece.place)
        return places


@dataclass
class DumpRecord:
    """All of it.

    Attributes:
        overview: (what, value) of the model, the settings and the machine.
        settings: (setting, value, set by, why) of every one.
        notes: what came otherwise than the settings ask.
        tuning: where the choices of kernels' ways are from; None where none were made.
        choices: (kernel, shape, where another way than the default is taken, times) of every shape.
        error: the traceback of what ended it.
    """

    overview: list[tuple[str, str]]
    settings: list[tuple[str, str, str, str]]
    notes: list[str] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)
    tuning: str | None = None
    choices: list[tuple[str, str, str, str]] = field(default_factory=list)
    traced: list[str] = field(default_factory=list)
    graphs: list[GraphRecord] = field(default_factory=list)
    problem: str | None = None
    error: str | None = None
