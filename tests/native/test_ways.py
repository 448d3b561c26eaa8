"""All ways of a kernel give the same bits, and launches take the way that their thread was told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ozone.bench.kernels.formats import FORMATS, HEADS, Format
from ozone.native import library

native = library()
pytestmark = pytest.mark.skipif(native is None, reason="needs the native library")

SHAPES = [(48, 64), (96, 320), (256, 1152), (1040, 256)]
TOKENS = (1, 2, 3, 4, 7, 16, 33, 130)


def launches_of(form: Format, tokens: int, rows: int, cols: int) -> tuple[Any, torch.Tensor, Any]:
    """Recorded launches, the tensor that they write, and what they read."""
    assert native is not None
    kept = (form.ours.weights(rows, cols), form.ours.inputs(tokens, cols))
    launches = native.Launches()
    launches.record()
    try:
        result = form.ours.call(kept[1], kept[0], rows)
    finally:
        native.Launches.stop()
    assert isinstance(result, torch.Tensor)
    return launches, result, kept


def columns(form: Format, cols: int) -> int:
    """K-quants come in blocks of 256."""
    return -(-cols // 256) * 256 if form.name.endswith("_K") else cols


@pytest.mark.parametrize("form", [*FORMATS, *HEADS], ids=lambda form: form.name)
def test_all_ways_give_the_same_bits(form: Format, isa: str) -> None:
    torch.manual_seed(0)
    for rows, cols in SHAPES:
        for tokens in TOKENS:
            launches, result, _kept = launches_of(form, tokens, rows, columns(form, cols))
            expected = result.clone()
            for way in range(4):  # one that a kernel does not have is its default
                result.fill_(7)
                launches.run(way)
                assert torch.equal(result, expected), f"way {way} of {rows}x{cols}, {tokens} tokens"


def test_a_table_is_its_threads_own() -> None:
    assert native is not None
    form = next(form for form in FORMATS if form.name == "fp8")
    launches, _, _kept = launches_of(form, 2, 48, 64)
    ways = native.kernels()["linear_fp8"].ways
    assert launches.ways() == [ways[0]]
    seen: list[Any] = []

    def elsewhere() -> None:
        shape = launches.shapes()[0]
        for spans in ([(1, 1), (native.NO_END, 2)], [(2, 1), (native.NO_END, 0)], [(native.NO_END, 99)]):
            native.set_ways([(shape, spans), (5, [(native.NO_END, 1)])])
            seen.append(
                (launches.ways(), native.ways() == sorted([(shape, spans), (5, [(native.NO_END, 1)])]))
            )
        native.set_ways([])
        seen.append(launches.ways())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [([ways[2]], True), ([ways[1]], True), ([ways[0]], True), [ways[0]]]
    assert native.ways() == []


@pytest.mark.parametrize(
    "spans",
    [
        lambda end: [(4, 1)],
        lambda end: [(4, 1), (4, 0), (end, 0)],
        lambda end: [(0, 1), (end, 0)],
        lambda end: [(end, -1)],
        lambda end: [],
    ],
)
def test_a_table_that_cannot_be_is_refused(spans: Callable[[int], list[tuple[int, int]]]) -> None:
    assert native is not None
    with pytest.raises(ValueError, match="ways"):
        native.set_ways([(1, spans(native.NO_END))])
    assert native.ways() == []
