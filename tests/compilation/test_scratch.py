"""A start compiles where no temporary directory can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ozone.native import library

pytestmark = pytest.mark.skipif(library() is None, reason="programs need the native library")

# As on a read-only root: tempfile finds nothing, whoever asks.
PROGRAM = """
import errno, sys, tempfile
from pathlib import Path

def none():
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

tempfile._get_default_tempdir = none
import ozone.compilation.scratch
ozone.compilation.scratch._SHARED_MEMORY = Path(sys.argv.pop(1))
from ozone.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("shared_memory", ["/proc/nowhere", "/dev/shm"])
def test_a_cold_start_serves_where_nothing_can_be_written(shared_memory: str, tiny_model: Path) -> None:
    words = ["generate", "a", "--model", str(tiny_model), "-O1", "--max-tokens", "2", "--num-threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, shared_memory, *words, "--kv-cache-memory-bytes", "1000000"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OZONE_CACHE_DIR": "/proc/nowhere"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not cached" in done.stderr and "Traceback" not in done.stderr
