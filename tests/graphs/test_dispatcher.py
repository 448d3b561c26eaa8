"""The dispatcher, by property: the highest mode that exists for a batch, never a graph too small for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone.config.schema import CUDAGraphMode
from ozone.graphs.dispatcher import BatchDescriptor, Dispatcher

MODES = st.sampled_from(CUDAGraphMode)
SIZES = st.lists(st.integers(1, 600), max_size=8)


@st.composite
def batches(draw: st.DrawFn) -> BatchDescriptor:
    tokens = draw(st.integers(1, 700))
    return BatchDescriptor(tokens, draw(st.sampled_from([tokens, draw(st.integers(1, tokens))])))


@given(MODES, SIZES, batches())
def test_a_graph_is_never_smaller_than_its_batch_and_none_is_closer(
    mode: CUDAGraphMode, sizes: list[int], batch: BatchDescriptor
) -> None:
    found, size = Dispatcher(mode, sizes).dispatch(batch)
    fitting = [size for size in sizes if size >= batch.num_tokens]
    if found is CUDAGraphMode.NONE:
        assert size is None
    else:
        assert size == min(fitting)


@given(SIZES, batches())
def test_modes_are_what_their_names_say(sizes: list[int], batch: BatchDescriptor) -> None:
    fits = any(size >= batch.num_tokens for size in sizes)
    full, pieces, none = CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE, CUDAGraphMode.NONE
    decode = batch.num_requests == batch.num_tokens
    expected = {
        CUDAGraphMode.NONE: none,
        CUDAGraphMode.PIECEWISE: pieces,
        CUDAGraphMode.FULL: full,
        CUDAGraphMode.FULL_DECODE_ONLY: full if decode else none,
        CUDAGraphMode.FULL_AND_PIECEWISE: full if decode else pieces,
    }
    for mode, wanted in expected.items():
        assert Dispatcher(mode, sizes).dispatch(batch)[0] is (wanted if fits else none)


@pytest.mark.parametrize("mode", CUDAGraphMode)
def test_without_sizes_nothing_is_captured(mode: CUDAGraphMode) -> None:
    assert Dispatcher(mode, ()).dispatch(BatchDescriptor(1, 1)) == (CUDAGraphMode.NONE, None)
