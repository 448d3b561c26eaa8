"""Programs: any launch can be stored without an address, kept, and bound to other memory for a
batch of another size.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
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


def record(calls: list[tuple[Any, list[float]]]) -> Any:
    """The launches, recorded and not run."""
    launches = assert_native().Launches()
    launches.record(dry=True)
    try:
        for kernel, fields in calls:
            kernel(*fields)
    finally:
        assert_native().Launches.stop()
    return launches


def spans(memory: list[Any]) -> list[tuple[int, int]]:
    return [(region.ctypes.data, region.nbytes) for region in memory]


def nodes(program: Any, memory: list[Any], header: list[int]) -> list[tuple[str, list[float]]]:
    return [(name, list(values)) for name, values in program.bind(spans(memory)).nodes(header)]


@pytest.mark.parametrize("name", KERNELS)
def test_a_launch_comes_back_as_it_was(name: str, memory: list[Any]) -> None:
    fields = some_fields(KERNELS[name], memory, HEADER)
    program = record([(KERNELS[name], fields)]).store(HEADER, spans(memory))
    kept = assert_native().Program.from_words(program.words)
    assert nodes(kept, memory, HEADER) == [(name, fields)]


def test_launches_can_be_read(memory: list[Any]) -> None:
    out, x = (array.ctypes.data for array in memory[:2])
    calls = [(KERNELS["rms_norm"], [out, x + 64, 0, HEADER[0] * 3, 1, 8, 8, -8, 0.5, 0])]
    program = record(calls).store(HEADER, spans(memory))
    # A pointer is a span, from 1 on, and bytes into it; a count is a place in the header and a factor.
    fields = ((1, 0), (2, 64), (0, 0), (0, 3), (0, 1), (0, 8), (0, 8), (0, -8), (0, 0.5), (0, 0))
    assert program.launches == [("rms_norm", fields)]


@pytest.mark.parametrize("name", KERNELS)
def test_counts_are_those_of_the_batch_at_hand(name: str, memory: list[Any]) -> None:
    kernel = KERNELS[name]
    program = record([(kernel, some_fields(kernel, memory, HEADER))]).store(HEADER, spans(memory))
    other = [3, 2, 0]
    assert nodes(program, memory, other) == [(name, some_fields(kernel, memory, other))]


def test_a_program_runs_on_whatever_memory_it_is_bound_to(memory: list[Any]) -> None:
    kernel = KERNELS["rms_norm"]
    out, x, weight = (array.ctypes.data for array in memory)
    program = record([(kernel, [out, x, weight, HEADER[0], 1, 8, 8, 8, 0.0, 0])]).store(HEADER, spans(memory))
    other = [np.zeros(5000, np.uint8), np.full(1250, 2, np.float32), np.full(1250, 3, np.float32)]
    program.bind(spans(other)).run(4, 1, 1)
    result = other[0].view(np.float32)
    assert (result[:32] == 3).all() and (result[32:] == 0).all()
    assert not memory[0].any()


def test_launches_of_a_program_run_in_order(memory: list[Any]) -> None:
    kernel = KERNELS["rms_norm"]
    a, b, weight = (array.ctypes.data for array in memory)
    weight_of = memory[2].view(np.float32)
    weight_of[:] = 2
    memory[0].view(np.float32)[:] = 5
    tokens = [HEADER[0], 1, 8, 8, 8, 0.0, 0]
    calls = [(kernel, [b, a, weight, *tokens]), (kernel, [a, b, weight, *tokens])]
    program = record(calls).store(HEADER, spans(memory))
    assert len(program) == 2
    program.bind(spans(memory)).run(1, 1, 1)
    assert (memory[0].view(np.float32)[:8] == 2).all()
    memory[0][:] = memory[1][:] = 0


def test_nothing_runs_in_a_dry_recording(memory: list[Any]) -> None:
    out, x, weight = (array.ctypes.data for array in memory)
    memory[1].view(np.float32)[:] = 1
    memory[2].view(np.float32)[:] = 1
    launches = record([(KERNELS["rms_norm"], [out, x, weight, 4, 1, 8, 8, 8, 0.0, 0])])
    assert len(launches) == 1 and not memory[0].any()
    launches.run()
    assert memory[0].any()
    memory[0][:] = memory[1][:] = memory[2][:] = 0


def assert_native() -> Any:
    assert NATIVE is not None
    return NATIVE


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": 4096}, "rms_norm: field out points into no memory of the program"),
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
        record([(kernel, fields)]).store(HEADER, spans(memory))


@pytest.mark.parametrize("missing", ["a span", "bytes of one"])
def test_memory_that_a_program_needs_and_does_not_get_is_an_error(missing: str, memory: list[Any]) -> None:
    kernel = KERNELS["rms_norm"]
    program = record([(kernel, some_fields(kernel, memory, HEADER))]).store(HEADER, spans(memory))
    less = spans(memory)[:2] if missing == "a span" else [(address, 64) for address, _ in spans(memory)]
    with pytest.raises(ValueError, match="not there or smaller"):
        program.bind(less)


def test_words_that_are_no_program_are_refused(memory: list[Any]) -> None:
    kernel = KERNELS["rms_norm"]
    program = record([(kernel, some_fields(kernel, memory, HEADER))] * 2).store(HEADER, spans(memory))
    read, words = assert_native().Program.from_words, program.words
    assert len(read(words)) == 2 and len(read(b"")) == 0
    with pytest.raises(ValueError, match="8-byte words"):
        read(words[:-3])
    for end in range(8, len(words), 8):
        if end != len(words) // 2:
            with pytest.raises(ValueError, match=r"middle of a launch|this library does not have"):
                read(words[:end])
    with pytest.raises(ValueError, match="this library does not have"):
        read(b"\1" + words[1:])
    huge = (1 << 63).to_bytes(8, "little")
    with pytest.raises(ValueError, match="middle of a launch"):
        read(words[:8] + huge + words[16:])


def test_a_header_has_the_counts_that_the_library_names(memory: list[Any]) -> None:
    assert assert_native().BATCH_COUNTS == ("num_tokens", "num_requests", "num_logits")
    with pytest.raises(ValueError, match="3 counts"):
        record([(KERNELS["rms_norm"], some_fields(KERNELS["rms_norm"], memory, HEADER))]).store([1], [])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_replay_gives_what_launches_one_by_one_give(threads: int) -> None:
    """A chain in which each node reads what other threads wrote: small nodes, large ones, both in turn."""
    native = assert_native()
    before = native.num_threads()
    native.set_num_threads(threads)
    try:
        expected = _chain("run")
        for _ in range(5):
            np.testing.assert_array_equal(_chain("replay"), expected)
    finally:
        native.set_num_threads(before)


def _chain(method: str) -> np.ndarray:
    rows, cols = 67, 1024
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, rows, cols)).astype(np.float32)
    weight = rng.standard_normal(cols).astype(np.float32)
    arrays = [a, b, weight]
    memory = [(array.ctypes.data, array.nbytes) for array in arrays]
    (to_b, from_a, w), norm = (address for address, _ in memory), KERNELS["rms_norm"]
    to_b, from_a = from_a, to_b
    calls = []
    for node in range(60):
        # Rows of the input begin one element after another, so that each thread reads what all have written.
        columns = 4 if node % 5 > 2 else cols
        calls.append((norm, [to_b, from_a, w, rows, 1, columns, 1, columns, 1e-5, 0]))
        to_b, from_a = from_a, to_b
    bound = record(calls).store([rows, 11, 5], memory).bind(memory)
    getattr(bound, method)(rows, 11, 5)
    return np.concatenate([a, b])


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("tokens", [1, 2, 6, 8, 9])
def test_a_replay_of_products_gives_what_launches_one_by_one_give(
    isa: str, threads: int, tokens: int
) -> None:
    """Ranks take the weights of a few tokens in turns: of few rows, of many, of fewer panels than parts."""
    native = assert_native()
    before = native.num_threads()
    native.set_num_threads(threads)
    try:
        expected = _products("run", tokens)
        assert expected.any()
        for _ in range(5):
            np.testing.assert_array_equal(_products("replay", tokens), expected)
    finally:
        native.set_num_threads(before)


def _products(method: str, tokens: int) -> np.ndarray:
    """What products with int8 weights give, each of the same activations, so that each result is seen."""
    cols, all_rows = 4096, (48 * 4, 48 * 9 + 7, 48 * 40, 40, 48 * 3)
    rng = np.random.default_rng(1)
    x = rng.integers(-127, 128, (tokens, cols), np.int8)
    scales = rng.random(max(all_rows), np.float32)
    outs = [np.zeros((tokens, rows), np.float32) for rows in all_rows]
    weights = [rng.integers(0, 256, (-(-rows // 48) * 48, cols), np.uint8) for rows in all_rows]
    arrays = [x, scales, *outs, *weights]
    calls = []
    for rows, out, weight in zip(all_rows, outs, weights, strict=True):
        pointers = [array.ctypes.data for array in (out, x, scales, weight, scales)]
        calls.append((KERNELS["linear_int8"], [*pointers, 0, 0, tokens, rows, cols, 0, 0]))
    memory = [(array.ctypes.data, array.nbytes) for array in arrays]
    bound = record(calls).store([tokens, 11, 5], memory).bind(memory)
    getattr(bound, method)(tokens, 11, 5)
    return np.concatenate([out.ravel() for out in outs])


def test_callers_of_one_program_take_turns() -> None:
    """Each asks for other rows of it: with mixed-up counts, some would never be written, or all."""
    rows, cols = 64, 2048
    x, out, weight = (
        np.full((rows, cols), 3, np.float32),
        np.zeros((rows, cols), np.float32),
        np.ones(cols, np.float32),
    )
    memory = [(array.ctypes.data, array.nbytes) for array in (out, x, weight)]
    addresses = [address for address, _ in memory]
    call = (KERNELS["rms_norm"], [*addresses, 61, 1, cols, cols, cols, 0.0, 0])
    bound = record([call] * 3).store([61, 11, 5], memory).bind(memory)
    stop, wrong = threading.Event(), []

    def look(tokens: int) -> None:
        while not stop.is_set():
            counts = {values[3] for _, values in bound.nodes([tokens, 1, 1])}
            if counts != {tokens}:
                wrong.append(counts)

    def replay(tokens: int) -> None:
        while not stop.is_set():
            bound.replay(tokens, 1, 1)
            bound.run(tokens, 1, 1)

    threads = [
        threading.Thread(target=target, args=(n,)) for target, n in ((look, 7), (replay, 33), (replay, 64))
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    np.testing.assert_allclose(out, 1, rtol=1e-5)


def test_a_replay_says_how_long_each_node_took(memory: list[Any]) -> None:
    kernel = KERNELS["rms_norm"]
    out, x, weight = (array.ctypes.data for array in memory)
    calls = [(kernel, [out, x, weight, HEADER[0], 1, 8, 8, 8, 1.0, 0])] * 3
    bound = record(calls).store(HEADER, spans(memory)).bind(spans(memory))
    times = bound.times([4, 1, 1])
    assert len(times) == 3 and all(time > 0 for time in times)
