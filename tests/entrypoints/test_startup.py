"""The start-up timer."""

from __future__ import annotations

import time

import pytest

from ozone.entrypoints.startup import StartupTimer, process_start_time


def test_the_process_started_before_now_and_not_long_ago() -> None:
    age = time.monotonic() - process_start_time()
    assert 0 < age < 3600


def test_phases_appear_in_order_with_their_share_of_the_time() -> None:
    timer = StartupTimer(time.monotonic() - 1.0)
    with timer.phase("weights"):
        time.sleep(0.02)
    timer.ready()
    report = timer.report()
    assert [phase["name"] for phase in report["phases"]] == ["interpreter", "weights"]
    assert report["phases"][0]["seconds"] >= 1.0
    assert report["phases"][1]["seconds"] >= 0.02
    assert report["total_seconds"] >= report["phases"][1]["begin"] + report["phases"][1]["seconds"] - 1e-3
    assert "weights" in timer.line() and "weights" in timer.table()


def test_a_phase_that_raises_is_not_reported() -> None:
    timer = StartupTimer()
    with pytest.raises(ValueError), timer.phase("weights"):
        raise ValueError
    assert timer.report()["phases"] == []


def test_ready_counts_once() -> None:
    timer = StartupTimer()
    timer.ready()
    total = timer.total
    time.sleep(0.01)
    timer.ready()
    assert timer.total == total
