"""The static inputs of a step, against positions computed one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner_fakes import FakeRequest

from ozone.engine.input_buffers import InputBuffers
from ozone.engine.runner import ScheduledRequest
from ozone.errors import ConfigError

BLOCK_SIZE = 4


def schedule(parts: list[tuple[int, int, str]]) -> list[ScheduledRequest]:
    """Requests with (start, num_tokens, logits), random tokens and random blocks of their own."""
    rng = random.Random(0)
    scheduled = []
    for start, count, logits in parts:
        blocks = rng.sample(range(1000), -(-(start + count) // BLOCK_SIZE) + 1)
        request = FakeRequest([rng.randrange(50_000) for _ in range(start + count + 3)], blocks)
        scheduled.append(ScheduledRequest(request, start, count, logits))
    return scheduled


def make_buffers(max_num_seqs: int = 8) -> InputBuffers:
    return InputBuffers(
        max_num_batched_tokens=200, max_num_seqs=max_num_seqs, max_model_len=100, block_size=BLOCK_SIZE
    )


parts = st.tuples(
    st.integers(0, 40), st.one_of(st.just(1), st.integers(1, 20)), st.sampled_from(["none", "last", "all"])
)


@given(steps=st.lists(st.lists(parts, min_size=1, max_size=8), min_size=1, max_size=3))
def test_buffers_describe_the_last_step_whatever_was_in_them(steps: list[list[tuple[int, int, str]]]) -> None:
    buffers = make_buffers()
    for step in steps:
        scheduled = schedule(step)
        counts = buffers.fill(scheduled)
    tokens = [
        (item.request.token_ids[p], p, item.request.block_ids[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE)
        for item in scheduled
        for p in range(item.start, item.start + item.num_tokens)
    ]
    n = counts.num_tokens
    filled = (buffers.token_ids[:n], buffers.positions[:n], buffers.slot_mapping[:n])
    assert list(zip(*(array.tolist() for array in filled), strict=True)) == tokens
    ends = np.cumsum([item.num_tokens for item in scheduled]).tolist()
    assert buffers.query_start_loc[: counts.num_requests + 1].tolist() == [0, *ends]
    lengths = [item.start + item.num_tokens for item in scheduled]
    assert buffers.seq_lens[: counts.num_requests].tolist() == lengths
    wanted = {"none": lambda first, end: [], "last": lambda first, end: [end - 1], "all": range}
    rows = [
        row
        for item, first, end in zip(scheduled, [0, *ends], ends, strict=False)
        for row in wanted[item.logits](first, end)
    ]
    assert buffers.logits_indices[: counts.num_logits].tolist() == rows
    for row, (item, length) in enumerate(zip(scheduled, lengths, strict=True)):
        used = -(-length // BLOCK_SIZE)
        assert buffers.block_tables[row, :used].tolist() == item.request.block_ids[:used]


@given(data=st.data())
def test_block_tables_follow_requests_that_grow_change_places_and_lose_blocks(data: st.DataObject) -> None:
    buffers, rng = make_buffers(max_num_seqs=3), random.Random(0)
    requests = [FakeRequest(list(range(100)), [rng.randrange(1000)]) for _ in range(5)]
    for _ in range(data.draw(st.integers(1, 8))):
        for request in data.draw(st.lists(st.sampled_from(requests), max_size=2)):
            request.block_ids = [rng.randrange(1000)]
        running = data.draw(st.lists(st.sampled_from(requests), min_size=1, max_size=3, unique_by=id))
        for request in running:
            request.block_ids += [rng.randrange(1000) for _ in range(data.draw(st.integers(0, 2)))]
        starts = [len(request.block_ids) * BLOCK_SIZE - 1 for request in running]
        buffers.fill([ScheduledRequest(r, p, 1, "last") for r, p in zip(running, starts, strict=True)])
        for row, request in enumerate(running):
            assert buffers.block_tables[row, : len(request.block_ids)].tolist() == request.block_ids


@given(data=st.data())
def test_decode_goes_on_from_the_step_before(data: st.DataObject) -> None:
    """Also where requests stand still, jump, change places or lose their blocks, and after other steps."""
    buffers, rng = make_buffers(max_num_seqs=3), random.Random(0)

    def request() -> tuple[FakeRequest, int]:
        blocks = rng.sample(range(1000), 25)
        return FakeRequest([rng.randrange(50_000) for _ in range(100)], blocks), rng.randrange(40)

    rows = [request() for _ in range(3)]
    for _ in range(data.draw(st.integers(2, 12))):
        match data.draw(
            st.sampled_from(["on", "on", "on", "on", "still", "moved", "places", "others", "fewer"])
        ):
            case "on":
                rows = [(item, start + 1) for item, start in rows]
            case "moved":
                rows[-1][0].block_ids = rng.sample(range(1000), 25)
            case "places":
                rows.reverse()
            case "others":
                rows = [*rows[:2], request()]
                buffers.fill([ScheduledRequest(rows[0][0], 0, 3, "last")])
            case "fewer":
                rows = rows[:2]
        scheduled = [ScheduledRequest(item, start, 1, "last") for item, start in rows]
        fresh, counts = make_buffers(max_num_seqs=3), buffers.fill(scheduled)
        assert counts == fresh.fill(scheduled)
        for name in ("token_ids", "positions", "slot_mapping", "seq_lens", "logits_indices"):
            assert getattr(buffers, name)[: len(rows)].tolist() == getattr(fresh, name)[: len(rows)].tolist()
        assert buffers.query_start_loc[: len(rows) + 1].tolist() == list(range(len(rows) + 1))
        for row, (item, start) in enumerate(rows):
            used = start // BLOCK_SIZE + 1
            assert buffers.block_tables[row, :used].tolist() == item.block_ids[:used]


def test_block_tables_beyond_memory_name_the_flags() -> None:
    with pytest.raises(ConfigError, match=r"--max-num-seqs 256 .* --max-model-len to at most 33554432"):
        InputBuffers(max_num_batched_tokens=8, max_num_seqs=256, max_model_len=1 << 31, block_size=16)
