"""What `make serve` shows of pip's words while it installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "tools" / "build_progress.py"
STEP = "  [3/98] Building CXX object CMakeFiles/_native.dir/csrc/kernels/norm.cpp.o\n"


def run(*lines: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], input="".join(lines), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines(), done.stderr


def test_steps_of_the_build_are_shown_and_the_rest_is_not() -> None:
    out, err = run(
        "  cmake --build\n", STEP, "  [4/98] : && g++ -shared -o _native.so\n", "Successfully installed x\n"
    )
    assert out == ["  [3/98] norm.cpp", "  [4/98] linking", "Successfully installed x"]
    assert err == ""


def test_where_nothing_was_installed_the_last_lines_come_out() -> None:
    out, err = run(STEP, "norm.cpp:3:1: error: no such thing\n", "ERROR: Failed building wheel\n")
    assert out[-1] == "ERROR: Failed building wheel"
    assert "norm.cpp:3:1: error: no such thing" in err
