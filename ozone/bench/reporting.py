"""What a benchmark prints: progress on stderr, then a table, or with `--json` one JSON object on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ozone.config.schema import OzoneConfig
from ozone.errors import harmless

Row = tuple[str, str, str]
"""A line of a table: what, the figure with its unit, and a remark (spread, limit) or an empty string."""


def add_report_arguments(parser: argparse.ArgumentParser) -> argparse.Action:
    """Add `--json`, and return it."""
    return parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout; progress and table go to stderr"
    )


@dataclass(frozen=True)
class Reporter:
    """Where a benchmark speaks: `json` keeps stdout free for one object."""

    json: bool

    def note(self, text: str) -> None:
        """One line on stderr about what happens now."""
        print(harmless(text), file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Callable[..., object]]:
        """A bar of `total` steps on stderr, if that is a terminal. What is yielded counts steps done (1)."""
        from tqdm import tqdm

        with tqdm(total=total, desc=description, disable=None, leave=False, dynamic_ncols=True) as bar:
            yield bar.update

    def show(self, title: str, rows: Sequence[Row]) -> None:
        """Print a table."""
        print(harmless(table(title, rows)), file=sys.stderr if self.json else sys.stdout, flush=True)

    def finish(self, title: str, rows: Sequence[Row], report: dict[str, Any]) -> None:
        """Print the table, and the report where JSON was asked for."""
        self.show(title, rows)
        self.finish_json(report)

    def finish_json(self, report: dict[str, Any]) -> None:
        """Print the report where JSON was asked for; for benchmarks with a table of their own."""
        if self.json:
            print(json.dumps(report), flush=True)


def table(title: str, rows: Sequence[Row]) -> str:
    """Rows under a title, in columns: names to the left, figures to the right, remarks after them."""
    names = max((len(name) for name, _, _ in rows), default=0)
    figures = max((len(figure) for _, figure, _ in rows), default=0)
    lines = [
        title,
        *(f"  {name:<{names}}  {figure:>{figures}}  {remark}".rstrip() for name, figure, remark in rows),
    ]
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """A time to three digits: in ms, from ten seconds on in s."""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.{0 if seconds >= 0.1 else 2}f} ms"


def header(bench: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The beginning of every report: which benchmark, of which version, with which parameters."""
    from ozone import __version__

    return {"bench": bench, "ozone_version": __version__, "parameters": parameters}


def model_report(config: OzoneConfig) -> dict[str, object]:
    """Which model was measured, and how it ran."""
    return {
        "name": config.model.model,
        "dtype": config.model.dtype,
        "optimization_level": config.optimization_level,
        "num_threads": config.parallel.num_threads,
        "enable_prefix_caching": config.cache.enable_prefix_caching,
    }


def model_title(config: OzoneConfig) -> str:
    """The same in a line."""
    return (
        f"{config.model.model}, {config.model.dtype}, -O{config.optimization_level}, "
        f"{config.parallel.num_threads} threads"
    )
