"""From measured times to choices: which way of a kernel is taken for how many rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

DEFAULT = "default"
# A way is taken for another one than the default only where it is faster by more than this ...
MARGIN = 0.03
# ... in so many of the rounds, of which there have to be so many.
_AGREEING = 0.75
_LEAST_ROUNDS = 4


@dataclass(frozen=True)
class Span:
    """A way, for row counts up to and including `last`, from where the span before ends; None: all others."""

    last: int | None
    way: str


@dataclass(frozen=True)
class Figure:
    """What was measured for one count of rows.

    Attributes:
        seconds: of a launch, by way; the median of rounds.
        way: the choice.
    """

    rows: int
    seconds: Mapping[str, float]
    way: str


def figure(rows: int, rounds: Mapping[str, Sequence[float]]) -> Figure:
    """The choice for `rows` rows.

    Args:
        rounds: seconds of each round, by way; the ways of a round were measured in turns, so that a slow
            moment is everybody's. One of them is `DEFAULT`.
    """
    base, chosen, best = rounds[DEFAULT], DEFAULT, 1.0 - MARGIN
    for way, seconds in rounds.items():
        ratios = [mine / default for mine, default in zip(seconds, base, strict=True)]
        if way == DEFAULT or len(ratios) < _LEAST_ROUNDS:
            continue
        agreeing = sum(ratio < 1.0 - MARGIN for ratio in ratios) / len(ratios)
        # In the medians too, since those are what is kept and shown.
        overall = max(median(ratios), median(seconds) / median(base))
        if overall < best and agreeing >= _AGREEING:
            chosen, best = way, overall
    return Figure(rows, {way: median(seconds) for way, seconds in rounds.items()}, chosen)


def spans(figures: Sequence[Figure], *, complete: bool = True) -> tuple[Span, ...]:
    """Choices for every count of rows, from those of the measured ones in ascending order.

    Between two measured counts a way is taken where both agree on it, else the default. Beyond the last one,
    the choice of the last one is, if they are `complete`.
    """
    found: list[Span] = []
    before = Figure(0, {}, DEFAULT)
    for made in figures:
        between = made.way if made.way == before.way else DEFAULT
        if made.rows - before.rows > 1:
            found.append(Span(made.rows - 1, between))
        found.append(Span(made.rows, made.way))
        before = made
    found.append(Span(None, before.way if complete else DEFAULT))
    # Neighbours with the same way are one span.
    ends = zip(found, [*found[1:], None], strict=True)
    return tuple(span for span, after in ends if after is None or after.way != span.way)


def way_for(choices: Sequence[Span], rows: int) -> str:
    """The way that is taken for `rows` rows."""
    return next(span.way for span in choices if span.last is None or rows <= span.last)


def differing(choices: Sequence[Span]) -> str:
    """Where something else than the default is taken, as text: ``1-3 near, 64 and more stream``."""
    parts, first = [], 1
    for span in choices:
        if span.way != DEFAULT:
            parts.append(f"{_counts(first, span.last)} {span.way}")
        first = (span.last or 0) + 1
    return ", ".join(parts)


def most_saved(figures: Iterable[Figure]) -> float:
    """The largest part of a launch's time that a choice saves."""
    return max((1.0 - made.seconds[made.way] / made.seconds[DEFAULT] for made in figures), default=0.0)


def _counts(first: int, last: int | None) -> str:
    if last is None:
        return f"{first} and more" if first > 1 else "all"
    return f"{first}-{last}" if last > first else str(first)
