"""A dump as one page that needs nothing else, as JSON, and as text. All that the page shows is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ozone.compilation.debug_dump.records import BufferRecord, DumpRecord, GraphRecord, PieceRecord

_TEMPLATE = Path(__file__).with_name("page.html")
# Of the drawing of the pool, in its own units.
_WIDTH, _HEIGHT = 1000.0, 260.0


def page(record: DumpRecord) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.filters |= {"ms": _milliseconds, "bytes": _bytes, "line_class": _line_class}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    total = sum(phase.seconds for phase in record.phases)
    return template.render(
        dump=record,
        summary=summary(record),
        total=total,
        end=max((phase.begin + phase.seconds for phase in record.phases), default=0.0) or 1.0,
        drawings={graph.name: drawing(graph) for graph in record.graphs},
        equals=equals,
    )


def summary(record: DumpRecord) -> list[tuple[str, str]]:
    """What a reader wants to know first: (what, value)."""
    rows = list(record.overview)
    for graph in record.graphs:
        pieces = f"{len(graph.pieces)} pieces of {len(graph.kinds)} kinds" if graph.pieces else "not split"
        places = sum(change.places or 0 for change in graph.changes)
        parts = [f"{places} places rewritten", pieces]
        if graph.launches:
            parts.append(f"{graph.launches} launches")
        if graph.pool_bytes is not None:
            parts.append(f"a pool of {_bytes(graph.pool_bytes)}")
        rows.append((graph.title, ", ".join(parts)))
    return rows


def equals(graph: GraphRecord, piece: PieceRecord) -> list[int]:
    """The places of the other pieces of its kind."""
    return [place for place in graph.kinds[piece.kind] if place != piece.place]


def drawing(graph: GraphRecord) -> list[tuple[float, float, float, float, str]]:
    """Rectangles (x, y, width, height, what it is) of the pool's buffers: ops to the right, offsets down."""
    if not graph.pool_bytes or not graph.steps:
        return []
    across, down = _WIDTH / len(graph.steps), _HEIGHT / graph.pool_bytes
    return [
        (
            round(buffer.first * across, 2),
            round(buffer.offset * down, 2),
            round((buffer.last - buffer.first + 1) * across, 2),
            round(max(buffer.size * down, 0.5), 2),
            _buffer(graph, buffer),
        )
        for buffer in graph.buffers
    ]


def _buffer(graph: GraphRecord, buffer: BufferRecord) -> str:
    until = f" to {graph.steps[buffer.last]}" if buffer.last != buffer.first else ""
    return f"{graph.steps[buffer.first]}{until}: {_bytes(buffer.size)} from {buffer.offset}"


def piece_lines(graph: GraphRecord, piece: PieceRecord) -> list[str]:
    """A piece as text: its ops, and below each of them its launches."""
    like = f", equal to {', '.join(map(str, equals(graph, piece)))}" if equals(graph, piece) else ""
    how = f": {piece.how}" if piece.how else ""
    launches = f", {piece.launches} launches" if piece.launches else ""
    lines = [f"piece {piece.place}, kind {piece.kind}{like}{how}{launches}"]
    for node in piece.nodes:
        lines += [f"    {node.statement}", *(f"        {launch}" for launch in node.launches)]
    return [*lines, ""]


def report(record: DumpRecord) -> dict[str, Any]:
    """What can be counted, as JSON has it."""
    return {
        "overview": dict(record.overview),
        "notes": record.notes,
        "error": record.problem,
        "phases": [
            {"name": p.name, "begin": round(p.begin, 6), "seconds": round(p.seconds, 6)}
            for p in record.phases
        ],
        "tuning": None
        if record.tuning is None
        else {
            "origin": record.tuning,
            "choices": [
                dict(zip(("kernel", "shape", "ways", "times"), choice, strict=True))
                for choice in record.choices
            ],
        },
        "graphs": [_graph_report(graph) for graph in record.graphs],
    }


def _graph_report(graph: GraphRecord) -> dict[str, Any]:
    return {
        "folder": graph.name,
        "steps": graph.title,
        "passes": [
            {"name": c.name, "places": c.places, "seconds": c.seconds, "reason": c.reason}
            for c in graph.changes
        ],
        "pieces": [
            {
                "kind": piece.kind,
                "splits": piece.splits,
                "ops": list(piece.ops),
                "how": piece.how,
                "launches": piece.launches,
                "seconds": piece.seconds,
            }
            for piece in graph.pieces
        ],
        "pool_bytes": graph.pool_bytes,
        "buffers": [
            {
                "offset": buffer.offset,
                "bytes": buffer.size,
                "first": graph.steps[buffer.first],
                "last": graph.steps[buffer.last],
            }
            for buffer in graph.buffers
        ],
    }


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.1f}"


def _bytes(size: int) -> str:
    if size < 10_000:
        return f"{size} B"
    return f"{size / 1e3:,.1f} kB" if size < 10_000_000 else f"{size / 1e6:,.1f} MB"


def _line_class(line: str) -> str:
    return {"+": "new", "-": "old", "@": "at"}.get(line[:1], "same")
