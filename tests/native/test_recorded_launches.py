"""Recorded launches are made again as they were, whoever else records, runs or forgets them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ozone.native

NATIVE = ozone.native.library()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native library was not built")


@pytest.fixture
def launches() -> Iterator[Any]:
    assert NATIVE is not None
    yield NATIVE.Launches()
    NATIVE.Launches.stop()


class Norm:
    """A launch over arrays of its own, large enough for the team."""

    def __init__(self) -> None:
        self._x = np.full((64, 2048), 3, np.float32)
        self._weight = np.ones(2048, np.float32)
        self.out = np.zeros_like(self._x)
        addresses = [array.ctypes.data for array in (self.out, self._x, self._weight)]
        self._fields = (*addresses, 64, 1, 2048, 2048, 2048, 1e-5, 0)

    def __call__(self) -> None:
        ozone.native.kernel("rms_norm")(*self._fields)


def test_they_are_made_again(launches: Any) -> None:
    norm = Norm()
    launches.record()
    norm()
    NATIVE.Launches.stop()
    norm()
    assert len(launches) == 1
    norm.out[:] = 0
    launches.run()
    np.testing.assert_allclose(norm.out, 1, rtol=1e-5)
    assert len(launches.times(3)) == 3
    with pytest.raises(ValueError, match="negative"):
        launches.times(-1)


def test_a_recording_that_nobody_holds_goes_on() -> None:
    forgotten = NATIVE.Launches()
    forgotten.record()
    del forgotten
    norm = Norm()
    try:
        for _ in range(100):
            norm()
    finally:
        NATIVE.Launches.stop()
    np.testing.assert_allclose(norm.out, 1, rtol=1e-5)


def test_one_thread_may_run_what_another_still_records(launches: Any) -> None:
    norm, stop = Norm(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            launches.run()

    runner = threading.Thread(target=run)
    launches.record()
    runner.start()
    try:
        for _ in range(200):
            norm()
    finally:
        stop.set()
        runner.join(60)
    assert not runner.is_alive()
    assert len(launches) == 200
