"""Products in AMX tiles, on any CPU with AVX-512: the library is built again, with tiles in software."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ozone.native import library

ROOT = Path(__file__).parents[2]
TESTS = ["tests/ops/test_linear.py", "tests/ops/test_linear_int8.py"]
_NATIVE = library()


@pytest.fixture(scope="module")
def emulating_library() -> Path:
    """Compiled from the sources at hand, in a folder that is kept: a second run compiles what has changed."""
    folder = ROOT / "build" / "emulated-amx"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    cmake = shutil.which("cmake", path=path)
    assert cmake is not None, "run `make install`: the test extra brings cmake"
    configure = [
        cmake,
        "-S",
        ROOT,
        "-B",
        folder,
        "-DOZONE_EMULATE_AMX=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    build = [cmake, "--build", folder, "--target", "_native", "--parallel", str(os.cpu_count())]
    for command in (configure, build):
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    return next(folder.glob("_native*.so"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(_NATIVE is None or "avx512" not in _NATIVE.isas(), reason="needs AVX-512")
def test_products_in_tiles_are_those_of_the_references(emulating_library: Path) -> None:
    """The tests of these ops, which run each instruction set that a library has, as they are."""
    environment = {**os.environ, "OZONE_NATIVE": str(emulating_library)}
    isas = "from ozone.native import library; print(*library().isas())"
    found = subprocess.run(
        [sys.executable, "-c", isas], env=environment, check=True, capture_output=True, text=True
    )
    if "amx" not in found.stdout.split():
        pytest.skip("the compiler does not know AMX")
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "amx", *TESTS]
    result = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:]
