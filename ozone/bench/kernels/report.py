"""The table of `ozone bench kernels`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ozone.bench.kernels.cases import Case
from ozone.bench.kernels.rounds import Rounds
from ozone.bench.statistics import Summary

# Rounds that differ by more are marked: the machine was not ours alone.
NOISY = 0.2
_WIDTH = 200  # where the output is no terminal


def render(title: str, results: Sequence[tuple[Case, Rounds]], console: Console) -> None:
    """Print a row for each case."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("op", "format", "shape"):
        table.add_column(heading, no_wrap=True)
    for heading in ("kernel", "rate", "limit", "share", "spread", "call"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("way", no_wrap=True)
    table.add_column("peers")
    previous = ""
    for case, rounds in results:
        if previous and case.op != previous:
            table.add_section()
        previous = case.op
        table.add_row(case.op, case.format, case.shape, *figures(rounds), rounds.way, peers(rounds))
    console.print(table)


def console_for(file_is_terminal: bool, *, stderr: bool) -> Console:
    """As wide as the terminal, or wide enough for the table."""
    return Console(stderr=stderr, width=None if file_is_terminal else _WIDTH, highlight=False)


def figures(rounds: Rounds) -> tuple[str, ...]:
    """Kernel time, rate, limit, share, spread and call time of one case."""
    ours = Summary.of(rounds.ours)
    spread = f"{rounds.spread:.0%}{'!' if rounds.spread > NOISY else ''}"
    share = limit = ""
    if rounds.limit:
        share = f"{Summary.of(rounds.shares).median:.0%}"
        limit = f"{rate(rounds, Summary.of(rounds.limit).median)} {rounds.bound}"
    return (
        duration(Summary.of(rounds.kernel).median) if rounds.kernel else "",
        rate(rounds, ours.median),
        limit,
        share,
        spread,
        duration(Summary.of(rounds.call).median),
    )


def rate(rounds: Rounds, seconds: float) -> str:
    """What a call reads or computes, whichever bounds it, a second."""
    work = rounds.work
    if rounds.bound not in ("", "read"):
        return f"{work.operations / seconds / 1e9:,.0f} {'GOP/s' if work.product == 'int8' else 'GFLOP/s'}"
    moved = work.bytes or work.touched
    return f"{moved / seconds / 1e9:.1f} GB/s" if moved else ""


def peers(rounds: Rounds) -> str:
    """Each peer's time, and how many times ours it is."""
    ours = Summary.of(rounds.call).median
    medians = ((name, Summary.of(seconds).median) for name, seconds in rounds.peers.items())
    return ", ".join(f"{name} {duration(seconds)} ({seconds / ours:.2f}x)" for name, seconds in medians)


def duration(seconds: float) -> str:
    """A time to three digits, in us, ms or s."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:#.3g} ms"
    return f"{seconds * 1e6:#.3g} us".replace(". ", " ")
