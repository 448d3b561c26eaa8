"""What tests share: how inputs are drawn, and native code under each instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from ozone.native import library

# A machine that is busy with something else draws inputs slowly; that is no fault of a test.
settings.register_profile("ozone", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("ozone")

_NATIVE = library()


@pytest.fixture(params=_NATIVE.isas() if _NATIVE else [])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set that this machine and build have."""
    assert _NATIVE is not None
    before = _NATIVE.isa()
    _NATIVE.set_isa(request.param)
    yield request.param
    _NATIVE.set_isa(before)


@pytest.fixture
def set_num_threads() -> Iterator[Callable[[int], None]]:
    """Sets the size of the thread team; it is as before after the test."""
    assert _NATIVE is not None
    before = _NATIVE.num_threads()
    yield _NATIVE.set_num_threads
    _NATIVE.set_num_threads(before)
