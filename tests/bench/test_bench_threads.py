"""`ozone bench threads`: what is measured, and how it is reported. How fast is nobody's promise."""

from __future__ import annotations

import json
import os

import pytest

import ozone.bench.threads
from ozone.bench.threads import Tail, machine_stalls, main
from ozone.native import library


def test_long_times_are_counted_by_the_second() -> None:
    tail = Tail([1e-5] * 997 + [1e-3, 2e-3, 3e-3], measured=2.0)
    assert tail.long_per_s == 1.5
    figures = tail.as_json()
    assert figures["median_seconds"] == figures["p99_seconds"] == 1e-5
    assert figures["max_seconds"] == 3e-3
    assert 1e-3 < figures["p99_9_seconds"] < 3e-3


def test_the_machine_is_watched_on_every_core() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    times = machine_stalls(cpus, 0.05, 1e-3)
    assert min(times) >= 1e-3
    # Each core's times add up to at least what was asked for, and no time is longer than all of them.
    assert sum(times) >= 0.05 * len(cpus)
    assert len(times) <= 50 * len(cpus)


def test_a_core_that_is_taken_away_is_seen() -> None:
    """Two of these processes share one core, so that each waits while the system runs the other."""
    one = min(os.sched_getaffinity(0))
    assert max(machine_stalls([one, one], 0.3, 1e-5)) > 5e-4


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="has failed"):
        machine_stalls([1 << 14], 0.01, 1e-5)


@pytest.mark.skipif(library() is None, reason="needs the native library")
@pytest.mark.parametrize("as_json", [False, True])
def test_it_prints_a_tail_for_each_contestant(
    as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ozone.bench.threads, "_SECONDS", 0.02)
    native = library()
    assert native is not None
    before = native.num_threads()
    try:
        assert main(["--rounds", "2", "--num-threads", "2", *(["--json"] if as_json else [])]) == 0
    finally:
        native.set_num_threads(before)
    output = capsys.readouterr()
    table = output.err if as_json else output.out
    assert "launches, in turns" in table and "the machine alone" in table
    if not as_json:
        return
    report = json.loads(output.out)
    assert report["bench"] == "threads" and report["parameters"]["rounds"] == 2
    names = ["machine", "launches", "launches_in_turns", "products", "products_in_turns"]
    assert list(report["tails"]) == names
    for tail in report["tails"].values():
        assert 0 < tail["median_seconds"] <= tail["p99_9_seconds"] <= tail["max_seconds"]
        assert tail["count"] > 0
