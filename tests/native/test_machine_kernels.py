"""The kernels that measure the machine read every byte and count what they do, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import ozone.native

_NATIVE = ozone.native.library()
pytestmark = pytest.mark.skipif(_NATIVE is None, reason="needs the native library")


@pytest.fixture(params=_NATIVE.isas() if _NATIVE else [])
def _isa(request: pytest.FixtureRequest) -> Iterator[None]:
    assert _NATIVE is not None
    before = _NATIVE.isa()
    _NATIVE.set_isa(request.param)
    yield
    _NATIVE.set_isa(before)


@pytest.mark.usefixtures("_isa")
@pytest.mark.parametrize("size", [0, 64, 4096 + 192, 1 << 20])
def test_a_stream_read_sees_every_vector(size: int) -> None:
    data = ozone.native.allocate("data", size)
    threads = _NATIVE.num_threads()
    out = np.zeros((threads, 8), np.int64)
    for line in range(0, size, max(64, size // 16 // 64 * 64)):
        data[:] = 0
        data[line] = 1
        out[:] = 0
        ozone.native.kernel("stream_read")(out.ctypes.data, data.ctypes.data, size)
        assert np.bitwise_or.reduce(out[:, 0]) == 1


@pytest.mark.usefixtures("_isa")
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_products_are_counted_on_every_thread(kind: int) -> None:
    out = np.zeros((_NATIVE.num_threads(), 8), np.int64)
    ozone.native.kernel("peak_products")(out.ctypes.data, kind, 2)
    assert (out[:, 0] == out[0, 0]).all()
    assert out[0, 0] >= 2 * 1000 * 12 * 8
