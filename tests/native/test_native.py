"""The native library, where it is built and where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ozone.native

ROOT = Path(__file__).parents[2]


def test_the_build_names_its_compiler_and_architecture() -> None:
    info = ozone.native.build_info()
    assert info is not None, "run `make install`"
    assert set(info) == {"compiler", "architecture"}
    assert os.uname().machine == info["architecture"]


def test_a_checkout_that_was_not_built_still_imports() -> None:
    code = (
        "import sys; sys.modules['ozone.native._native'] = None; import ozone.native; "
        "assert ozone.native.build_info() is None; from ozone.cli.main import main; main(['--version'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not built" in result.stdout


@pytest.mark.slow
def test_the_library_runs_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    configure = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DOZONE_SANITIZE=ON"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    subprocess.run([*configure, f"-DPython_EXECUTABLE={sys.executable}"], check=True, env=environment)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, env=environment)
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in ("libasan.so", "libubsan.so")
    ]
    environment |= {
        "LD_PRELOAD": " ".join(runtime.stdout.strip() for runtime in runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "PYTHONPATH": str(tmp_path),
    }
    code = "import _native; assert _native.build_info()['compiler']"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
