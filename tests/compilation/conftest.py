"""A compiled tiny model. The tiny checkpoints of `tests/models` and `tests/quantization` serve here too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from compiled_case import Case, make_case

from ozone.compilation.compiler import RangeProgram, compile_step

for room in ("models", "quantization"):
    sys.path.append(str(Path(__file__).parents[1] / room))


@pytest.fixture(scope="session")
def case(tiny_model: Path) -> Case:
    return make_case(tiny_model, compile_ranges_endpoints=(8, 32))


@pytest.fixture(scope="session")
def ranges(case: Case) -> list[RangeProgram]:
    """The case, compiled: two ranges."""
    return list(compile_step(*case))
