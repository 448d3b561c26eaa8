"""The thread team: right for any number of threads and callers, beside torch's threads, idle when idle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

import ozone.native
from ozone.errors import ConfigError

pytestmark = pytest.mark.skipif(ozone.native.library() is None, reason="the native library was not built")

TOKENS, COLS = 64, 2048  # half a megabyte: work for the whole team


@pytest.fixture
def native() -> Iterator:
    library = ozone.native.library()
    assert library is not None
    before = library.num_threads()
    yield library
    library.set_num_threads(before)


class Launch:
    """One launch over arrays of its own."""

    def __init__(self, seed: int = 0) -> None:
        self._kernel = ozone.native.kernel("rms_norm")
        self._x = np.random.default_rng(seed).standard_normal((TOKENS, COLS)).astype(np.float32)
        self._weight = np.ones(COLS, np.float32)
        self.out = np.zeros_like(self._x)
        root = np.sqrt((self._x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5)
        self._expected = self._x / root
        addresses = [array.ctypes.data for array in (self.out, self._x, self._weight)]
        self._fields = (*addresses, TOKENS, 1, COLS, COLS, COLS, 1e-5, 0)

    def __call__(self) -> None:
        self._kernel(*self._fields)

    def check(self) -> None:
        np.testing.assert_allclose(self.out, self._expected, rtol=1e-5)
        self.out[:] = 0


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_results_of_one(native, threads: int) -> None:
    native.set_num_threads(threads)
    assert native.num_threads() == threads
    launch = Launch()
    for _ in range(20):
        launch()
        launch.check()


def test_less_than_one_thread_is_refused(native) -> None:
    with pytest.raises(ValueError, match="at least 1 thread"):
        native.set_num_threads(0)
    Launch()()


def test_more_threads_than_the_system_gives_are_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def num_threads(self) -> int:
            return 2

        def set_num_threads(self, size: int) -> None:
            raise RuntimeError("Resource temporarily unavailable")

    monkeypatch.setattr(ozone.native, "library", Refused)
    ozone.native.set_num_threads(2)
    with pytest.raises(ConfigError, match="--num-threads 99999: the system does not give so many"):
        ozone.native.set_num_threads(99_999)


def test_callers_take_turns(native) -> None:
    native.set_num_threads(2)
    failures = []

    def call(seed: int) -> None:
        launch = Launch(seed)
        try:
            for _ in range(100):
                launch()
                launch.check()
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert not failures


def test_the_team_may_be_replaced_while_others_launch(native) -> None:
    stop = threading.Event()
    failures = []

    def call() -> None:
        launch = Launch()
        try:
            while not stop.is_set():
                launch()
                launch.check()
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for size in (1, 2, 4, 1, 3) * 4:
        native.set_num_threads(size)
        time.sleep(0.005)
    stop.set()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert not failures


def test_launches_and_torch_take_turns_in_one_thread(native) -> None:
    native.set_num_threads(2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        launch, x, weight = Launch(), torch.ones(64, 256), torch.full((512, 256), 0.5)
        for _ in range(100):
            launch()
            assert (functional.linear(x, weight) == 128).all()
            launch.check()
    finally:
        torch.set_num_threads(before)


def test_an_idle_team_uses_no_cpu_time(native) -> None:
    native.set_num_threads(4)
    launch = Launch()
    launch()
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02
    launch()  # and wakes up again
    launch.check()


_FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
import ozone.native
from test_team import Launch
ozone.native.library().set_num_threads(2)
launch = Launch()
launch()
child = os.fork()
launch()
launch.check()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_makes_a_team_of_its_own() -> None:
    subprocess.run([sys.executable, "-c", _FORK, os.path.dirname(__file__)], check=True, timeout=60)


_FORK_DURING_THE_FIRST_LAUNCH = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from test_team import Launch, ozone
native = ozone.native.library()
launch = Launch()
maker = threading.Thread(target=native.set_num_threads, args=(300,))
maker.start()
child = os.fork()
if not child:
    signal.alarm(50)
    native.set_num_threads(2)
    launch()
    launch.check()
    os._exit(0)
maker.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="a child forked beside threads that start may find the address sanitizer's allocator locked",
)
def test_a_process_may_fork_while_its_first_team_is_made() -> None:
    run = [sys.executable, "-c", _FORK_DURING_THE_FIRST_LAUNCH, os.path.dirname(__file__)]
    subprocess.run(run, check=True, timeout=60)


_EXIT = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from test_team import Launch
def forever():
    launch = Launch()
    while True:
        launch()
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
"""


def test_a_process_may_end_while_a_thread_launches() -> None:
    subprocess.run([sys.executable, "-c", _EXIT, os.path.dirname(__file__)], check=True, timeout=60)
