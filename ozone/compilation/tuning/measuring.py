"""Measuring the ways of a model's products, in turns, within a limit of time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from ozone.compilation.tuning.choosing import DEFAULT, Figure, figure
from ozone.compilation.tuning.products import Products, Shape

# Counts of rows that are measured. Beyond the last one a product repeats what it does for fewer.
ROWS = (1, 2, 3, 4, 8, 16, 32, 64, 128)
# The output head computes rows that tokens are sampled from.
MOST_HEAD_ROWS = 16
_MOST_ROUNDS, _WANTED_ROUNDS = 25, 10
# Of the launches of a shape in a round, this part was faster: whoever was interrupted is among the others.
_QUANTILE = 0.3
# A machine is busy where the team got less than this part of the time that it asked for ...
_LEAST_SHARE = 0.75
# (of so many seconds at least)
_LEAST_SECONDS = 0.2
# ... or where equal rounds differ by more than this, between their quartiles.
_MOST_SPREAD = 0.15


@dataclass
class Measured:
    """What was measured.

    Attributes:
        figures: by shape, for counts of rows in ascending order.
        busy: why the machine was not this process's own; None where it was.
        complete: whether there was time for all counts of rows.
    """

    figures: dict[Shape, list[Figure]] = field(default_factory=dict)
    busy: str | None = None
    complete: bool = True


def wanted_rows(shape: Shape, most_rows: int, most_requests: int) -> list[int]:
    """The counts of rows that matter for a shape."""
    most = min(MOST_HEAD_ROWS, most_requests) if shape.is_head else most_rows
    return [rows for rows in ROWS if rows <= most] or [1]


def measure(
    products: Callable[[int], Products],
    wanted: Mapping[Shape, Sequence[int]],
    seconds: float,
    num_threads: int,
    progress: Callable[[int, int], None],
) -> Measured:
    """Measure every shape for all of its counts of rows, or as many as there is time for on a busy machine.

    Args:
        products: launches of which each shape is among, with so many of each at most.
        seconds: about how long it may take, recording aside.
        progress: called with how many counts are done, and how many there are.
    """
    counts = sorted({rows for all_rows in wanted.values() for rows in all_rows})
    measured = Measured({shape: [] for shape in wanted})
    spreads: list[float] = []
    clock = _Clock(num_threads)
    several = _Several(products)
    end = time.perf_counter() + seconds
    for done, rows in enumerate(counts):
        progress(done, len(counts))
        left = end + several.seconds - time.perf_counter()
        if done and (left < 0 or clock.share() < _LEAST_SHARE):
            measured.complete = False
            break
        limit = left / (len(counts) - done)
        shapes = [shape for shape, all_rows in wanted.items() if rows in all_rows]
        rounds = _rounds(several, shapes, rows, limit, clock)
        for shape in shapes:
            measured.figures[shape].append(figure(rows, rounds[shape]))
            spreads.append(_spread(rounds[shape][DEFAULT]))
    progress(len(counts), len(counts))
    share = clock.share()
    if share < _LEAST_SHARE:
        measured.busy = f"its threads ran {share:.0%} of the time"
    elif spreads and median(spreads) > _MOST_SPREAD:
        measured.busy = f"equal launches differed by {median(spreads):.0%}"
    return measured


class _Several:
    """Products with at most so many launches of a shape: recorded once for each number that is asked for."""

    def __init__(self, products: Callable[[int], Products]) -> None:
        self._products = products
        self._made: dict[int, Products] = {}
        self.seconds = 0.0  # that recording took

    def __call__(self, each: int) -> Products:
        each = 1 << (each.bit_length() - 1)  # few different ones
        if each not in self._made:
            begin = time.perf_counter()
            self._made[each] = self._products(each)
            self.seconds += time.perf_counter() - begin
        return self._made[each]


class _Clock:
    """How much of the time that the team asked for it got.

    Of whole rounds: the system may count the time of a running thread in steps longer than a launch.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._wall = self._cpu = 0.0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu

    def share(self) -> float:
        enough = self._wall > _LEAST_SECONDS
        return self._cpu / (self._wall * self._num_threads) if enough else 1.0


def _rounds(
    several: _Several, shapes: Sequence[Shape], rows: int, limit: float, clock: _Clock
) -> dict[Shape, dict[str, list[float]]]:
    """Seconds of a launch of each shape, by way and round."""
    few = several(1)
    begin = time.perf_counter()
    places = _places(few, shapes)
    most = max(len(shape.ways) for shape in shapes)
    few.seconds(rows, 0)  # touches what it works on
    seconds = few.seconds(rows, 0)
    each = max(sum(float(seconds[place[0]]) for place in places.values()), 1e-6)
    limit -= time.perf_counter() - begin
    products = several(max(1, int(limit / (each * most * _WANTED_ROUNDS))))
    begin = time.perf_counter()
    places = _places(products, shapes)
    rounds: dict[Shape, dict[str, list[float]]] = {shape: {way: [] for way in shape.ways} for shape in shapes}
    with clock.counting():
        for turn in range(_MOST_ROUNDS):
            for i in range(most):
                way = (turn + i) % most  # whoever is first now is last in the end
                taken = products.seconds(rows, way)
                for shape, at in places.items():
                    if way < len(shape.ways):
                        rounds[shape][shape.ways[way]].append(float(np.quantile(taken[at], _QUANTILE)))
            if time.perf_counter() - begin > limit:
                break
    return rounds


def _places(products: Products, shapes: Sequence[Shape]) -> dict[Shape, list[int]]:
    wanted: dict[Shape, list[int]] = {shape: [] for shape in shapes}
    for place, shape in products.shapes.items():
        if shape in wanted:
            wanted[shape].append(place)
    return wanted


def _spread(seconds: Sequence[float]) -> float:
    """Between the quartiles of rounds, over their median."""
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return float((high - low) / middle)
