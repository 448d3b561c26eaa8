"""What was freed in the middle of the heap is not resident any more when loading is done."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

_FREE_IN_THE_MIDDLE = """
import ctypes
from ozone.bench.resident import resident_bytes
from ozone.entrypoints.assemble import return_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
blocks = [libc.malloc(ctypes.c_size_t(65536)) for _ in range(1000)]
for block in blocks:
    libc.memset(block, 1, 65536)
for block in blocks[:-1]:
    libc.free(block)
before = resident_bytes()["anonymous"]
return_freed_memory()
print(before - resident_bytes()["anonymous"])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    command = [sys.executable, "-c", _FREE_IN_THE_MIDDLE]
    given_back = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert given_back > 50_000_000
