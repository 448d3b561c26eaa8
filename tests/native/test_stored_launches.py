"""Every kernel's launch can be stored without an address and restored for a batch of another size."""

from __future__ import annotations

from typing import Any

import pytest

import ozone.native

NATIVE = ozone.native.library()
KERNELS = NATIVE.kernels() if NATIVE else {}
HEADER = [37, 11, 5]

pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native library was not built")


@pytest.fixture(scope="module")
def memory() -> list[Any]:
    return [ozone.native.allocate(f"region {i}", 5000) for i in range(3)]


def some_fields(kernel: Any, memory: list[Any], header: list[int]) -> list[float]:
    """Any values, as if the kernel were launched on a batch that looks like `header`."""
    values: list[float] = []
    for place, (_, kind) in enumerate(kernel.fields):
        if kind in ("input", "output", "state"):
            null = kind == "input" and place % 4 == 3
            values.append(0 if null else memory[place % 3].ctypes.data + 64 * place)
        elif kind == "count":
            values.append(header[place % 3] * (1 + place % 2 * 2))
        else:
            values.append(place * 1.1 if kind == "real" else -place)
    return values


@pytest.mark.parametrize("name", KERNELS)
def test_a_launch_comes_back_as_it_was(name: str, memory: list[Any]) -> None:
    kernel = KERNELS[name]
    fields = some_fields(kernel, memory, HEADER)
    stored = kernel.store(HEADER, *fields)
    assert (stored.kernel, stored.version) == (kernel.id, kernel.version)
    assert list(kernel.restore(stored, HEADER)) == fields


@pytest.mark.parametrize("name", KERNELS)
def test_counts_are_those_of_the_batch_at_hand(name: str, memory: list[Any]) -> None:
    kernel = KERNELS[name]
    stored = kernel.store(HEADER, *some_fields(kernel, memory, HEADER))
    other = [3, 2, 0]
    assert list(kernel.restore(stored, other)) == some_fields(kernel, memory, other)


@pytest.mark.parametrize("name", KERNELS)
def test_a_pointer_is_a_region_and_an_offset(name: str, memory: list[Any]) -> None:
    kernel = KERNELS[name]
    fields = some_fields(kernel, memory, HEADER)
    ids = {assert_native().locate(region.ctypes.data)[0] for region in memory}
    for (_, kind), value, stored in zip(
        kernel.fields, fields, kernel.store(HEADER, *fields).fields, strict=True
    ):
        if kind in ("input", "output", "state"):
            assert stored == (0, 0) if value == 0 else (stored[0] in ids and stored[1] < 5000)


def assert_native() -> Any:
    assert NATIVE is not None
    return NATIVE


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": 4096}, "rms_norm: field out points into no region"),
        ({"tokens": 38}, "rms_norm: field tokens is 38, a multiple of nothing"),
        ({"tokens": 0}, "rms_norm: field tokens is 0, a multiple of nothing"),
        ({"tokens": 37 * 11}, "rms_norm: field tokens is 407, a multiple of num_tokens and of num_requests"),
    ],
)
def test_what_cannot_be_stored_is_named(changed: dict[str, int], message: str, memory: list[Any]) -> None:
    kernel = KERNELS["rms_norm"]
    names = [name for name, _ in kernel.fields]
    fields = some_fields(kernel, memory, HEADER)
    for name, value in changed.items():
        fields[names.index(name)] = value
    with pytest.raises(ValueError, match=message):
        kernel.store(HEADER, *fields)


def test_a_region_that_is_gone_is_an_error(memory: list[Any]) -> None:
    kernel = KERNELS["rms_norm"]
    gone = [ozone.native.allocate("gone", 5000)] * 3
    stored = kernel.store(HEADER, *some_fields(kernel, gone, HEADER))
    gone.clear()
    with pytest.raises(ValueError, match="not there"):
        kernel.restore(stored, HEADER)


def test_a_header_has_the_counts_that_the_library_names(memory: list[Any]) -> None:
    assert assert_native().BATCH_COUNTS == ("num_tokens", "num_requests", "num_logits")
    with pytest.raises(ValueError, match="3 counts"):
        KERNELS["rms_norm"].store([1], *some_fields(KERNELS["rms_norm"], memory, HEADER))
