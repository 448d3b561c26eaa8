"""The planned pool: who is alive at the same time never shares memory, and what is free is used again."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ozone.compilation.pool import PlannedPool


def test_what_one_tensor_left_the_next_one_has() -> None:
    pool = PlannedPool()
    first = pool.empty((3, 5), torch.float32)
    offset = pool.offset(first)
    assert first.shape == (3, 5) and first.is_contiguous()
    del first
    assert pool.offset(pool.empty((4,), torch.int8)) == offset
    assert pool.size == 64


def test_a_view_keeps_its_memory() -> None:
    pool = PlannedPool()
    view = pool.empty((8, 8), torch.bfloat16).unflatten(1, (2, 4)).select(1, 1)
    other = pool.empty((8, 8), torch.bfloat16)
    assert pool.offset(other) >= 128
    assert pool.offset(view) == 8


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 6)), max_size=40))
def test_living_tensors_never_overlap(steps: list[tuple[int, int]]) -> None:
    """Each step makes a tensor and may drop an older one."""
    pool = PlannedPool()
    alive: list[Tensor] = []
    for size, drop in steps:
        if drop < len(alive):
            del alive[drop]
        alive.append(pool.empty((size,), torch.int16))
        ranges = sorted((pool.offset(tensor), pool.offset(tensor) + tensor.nbytes) for tensor in alive)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ranges))
        assert ranges[-1][1] <= pool.size
    alive.clear()
    assert pool.offset(pool.empty((max(pool.size, 1),), torch.int8)) == 0


@pytest.mark.parametrize(("kilobytes", "fits"), [(40_000_000, True), (3_000_000, True), (1, False)])
def test_a_pool_takes_what_address_space_there_is(kilobytes: int, fits: bool) -> None:
    """In a process of its own, since the limit also holds for all that runs beside it."""
    program = f"""
import resource, sys
from ozone.compilation.pool import PlannedPool
from ozone.errors import CompileError
import torch
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + {kilobytes} * 1024
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    pools = [PlannedPool() for _ in range(4)]
    pools[0].empty((1 << 20,), torch.float32)
except CompileError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == fits, done.stderr
    assert fits or "raise the limit (ulimit -v)" in done.stderr
    assert "Traceback" not in done.stderr
