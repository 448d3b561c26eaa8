"""After `share_heap`, threads allocate from the heap that the main thread has."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

_COUNT_HEAPS = """
import ctypes, sys, threading
from ozone.entrypoints.assemble import share_heap
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
if sys.argv[1] == "shared":
    share_heap()
barrier = threading.Barrier(4)
def allocate():
    barrier.wait()
    libc.malloc(ctypes.c_size_t(1000))
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
def test_threads_share_one_heap(tmp_path: Path) -> None:
    heaps = {}
    for mode in ("own", "shared"):
        info = tmp_path / mode
        subprocess.run([sys.executable, "-c", _COUNT_HEAPS, mode, str(info)], check=True)
        heaps[mode] = info.read_text().count("<heap nr=")
    assert heaps["shared"] == 1 < heaps["own"]
