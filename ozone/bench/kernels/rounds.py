"""Measuring a case: its limit, our op and its peers in turns, so that a slow second is everybody's."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ozone.bench.kernels.cases import Call, Work
from ozone.bench.kernels.launches import Launches
from ozone.bench.limits import Limits
from ozone.bench.statistics import Summary, summary_json

# Longer than torch's threads spin after a product (GOMP_SPINCOUNT): they take the cores from the team.
_QUIET = 0.001
# A contestant whose calls take so many seconds is measured in the first round alone.
_SLOW = 0.5


@dataclass(frozen=True)
class Plan:
    """How long to measure: `rounds` times `seconds` for each contestant of a case."""

    rounds: int
    seconds: float


@dataclass
class Rounds:
    """What the rounds of one case took, in seconds a call.

    Attributes:
        work: its figures; nothing of its memory, since that of the next case needs the room.
        copies: how many there were of what has to come from memory.
        kernel: launches alone, without Python; empty where the op launched no kernel.
        call: through the op, from Python.
        limit: what the bytes and operations of a call take at the machine's limits of the same round; empty
            where nothing has to come from memory and too little is computed.
        bound: which limit that is: ``read`` or a kind of product.
        way: which way its kernel takes, where it has several.
    """

    work: Work
    copies: int = 1
    kernel: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    limit: list[float] = field(default_factory=list)
    bound: str = ""
    way: str = ""

    @property
    def ours(self) -> list[float]:
        return self.kernel or self.call

    @property
    def shares(self) -> list[float]:
        """The limit over what was reached, round by round."""
        return [limit / seconds for limit, seconds in zip(self.limit, self.ours, strict=False)]

    @property
    def spread(self) -> float:
        """Between the slow and the fast tenth of the rounds, over the median: what a busy machine widens."""
        summary = Summary.of(self.ours)
        return (summary.p90 - summary.p10) / summary.median

    def as_json(self) -> dict[str, Any]:
        return {
            "kernel_seconds": summary_json(self.kernel),
            "call_seconds": summary_json(self.call),
            "limit_seconds": summary_json(self.limit),
            "limit": self.bound or None,
            "share": summary_json(self.shares),
            "bytes": self.work.bytes,
            "touched_bytes": self.work.touched or self.work.bytes,
            "operations": self.work.operations,
            "copies": self.copies,
            "way": self.way or None,
            "peer_seconds": {name: summary_json(seconds) for name, seconds in self.peers.items()},
        }


def measure(work: Work, limits: Limits, plan: Plan) -> Rounds:
    """Run all contestants of a case in turns."""
    rounds = Rounds(work.without_memory(), len(work.calls), peers={name: [] for name in work.peers})
    launches = [Launches([call]) for call in work.calls] if work.repeatable else []
    ours = [_Slice(work.calls, rounds.call)]
    if launches and len(launches[0]):
        ours.append(_Slice([recorded.run for recorded in launches], rounds.kernel))
        rounds.way = launches[0].way
    peers = [_Slice(calls, rounds.peers[name]) for name, calls in work.peers.items()]
    for contestant in (*ours, *peers):
        contestant.begin(plan.seconds)
    for _ in range(plan.rounds):
        _measure_limit(rounds, limits, plan)
        for contestant in ours:
            limits.wake()
            contestant.measure()
        for contestant in peers:
            contestant.measure()
        time.sleep(_QUIET)
    return rounds


def _measure_limit(rounds: Rounds, limits: Limits, plan: Plan) -> None:
    work = rounds.work
    if not work.bytes and not work.operations:
        return
    limits.wake()
    end = time.perf_counter() + plan.seconds
    reads, peaks = [limits.read()], [limits.peak(work.product)]
    while time.perf_counter() < end:
        reads.append(limits.read())
        peaks.append(limits.peak(work.product))
    # The mean rates of the slice, since what stands beside them is a mean over a slice too.
    reading = work.bytes * sum(1 / rate for rate in reads) / len(reads)
    computing = work.operations * sum(1 / rate for rate in peaks) / len(peaks)
    rounds.limit.append(max(reading, computing))
    if not rounds.bound:
        rounds.bound = "read" if reading >= computing else work.product


class _Slice:
    """Calls in rotation, as many as fit into a slice of time. Each slice goes on where the last one ended, so
    that a copy's turn comes when all the others have been read.
    """

    def __init__(self, calls: Sequence[Call], seconds: list[float]) -> None:
        self._rotation = itertools.cycle(calls)
        self._seconds = seconds
        self._count = 1
        self._slow = False

    def begin(self, seconds: float) -> None:
        """Warm up, and see how many calls fit into `seconds`."""
        next(self._rotation)()
        begin = time.perf_counter()
        calls = 0
        while calls < 1 or time.perf_counter() < begin + seconds / 4:
            next(self._rotation)()
            calls += 1
        each = (time.perf_counter() - begin) / calls
        self._count = max(1, round(seconds / each))
        self._slow = each > _SLOW

    def measure(self) -> None:
        if self._slow and self._seconds:
            return
        begin = time.perf_counter()
        for call in itertools.islice(self._rotation, self._count):
            call()
        self._seconds.append((time.perf_counter() - begin) / self._count)
