"""The native sampler chooses and reports what the one in numpy does, with every instruction set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ozone.engine import logprobs, native_sampler, sampler
from ozone.engine.native_sampler import NativeSampler, NumpySampler, make_sampler
from ozone.engine.prepared_params import TokenRules
from ozone.engine.random_stream import TokenUniforms
from ozone.engine.sampler import NO_TOKEN
from ozone.engine.sampling_params import SamplingParams
from ozone.engine.sampling_state import SamplingState
from ozone.native import library

pytestmark = pytest.mark.skipif(library() is None, reason="the native library was not built")

BORDER = 1e-12


def make_state(size: int, *, seed: int = 0, prompt=(0,), output=(), end=(), bad_words=(), **params):
    token_ids = [token % size for token in prompt]
    chosen = SamplingParams(max_tokens=None, **params)
    rules = TokenRules(chosen, end_token_ids=end, bad_words=bad_words)
    state = SamplingState(chosen, token_ids, seed=seed, vocab_size=size, rules=rules)
    token_ids += [token % size for token in output]
    return state


def make_logits(seed: int, rows: int, size: int, spread: float, *, distinct: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, size)) * spread
    if not distinct:
        logits = np.round(logits * 4) / 4
    logits[rng.random((rows, size)) < rng.choice([0, 0.1, 0.99])] = -np.inf
    logits[:, rng.integers(size)] = 1
    return logits.astype(np.float32)


def possible_choices(row: np.ndarray, state: SamplingState) -> set[int]:
    """What numpy chooses, and what it would with numbers that differ by rounding."""
    uniform, top_p = state.uniform(), state.top_p
    found = set()
    for shift in (0, -BORDER, BORDER):
        for change in (0, -BORDER, BORDER):
            state.uniform = lambda number=uniform + shift: min(max(number, 0.0), math.nextafter(1, 0))  # type: ignore
            state.top_p = top_p * (1 + change) if top_p < 1 else top_p
            found.add(sampler.sample(row[None], [state]).token_ids[0])
    del state.uniform  # type: ignore
    state.top_p = top_p
    return found


TOKENS = st.lists(st.integers(0, 10**6), max_size=80)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.01, 0.5, 0.8, 1.0, 2.0, 50.0]),
        "top_k": st.sampled_from([1, 2, 5, 39, 40, 300, 2000, 5000]),
        "top_p": st.sampled_from([0.95, 0.501, 0.1, 1e-9, 0.9999, 1 - 2**-53]),
        "min_p": st.sampled_from([1e-6, 0.1, 0.5, 1.0]),
        "repetition_penalty": st.sampled_from([0.7, 1.3]),
        "presence_penalty": st.sampled_from([-0.3, 1.5]),
        "frequency_penalty": st.sampled_from([-0.2, 0.7]),
        "seed": st.integers(0, 2**63 - 1),
        "prompt": TOKENS.filter(len),
        "output": TOKENS,
    },
)
LISTS = st.fixed_dictionaries(
    {},
    optional={
        "logit_bias": st.dictionaries(st.integers(0, 39), st.sampled_from([-100.0, -1.0, 3.0]), max_size=5),
        "allowed_token_ids": st.lists(st.integers(0, 39), min_size=1, max_size=20, unique=True),
        "bad_words": st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=2), max_size=3),
        "end": st.sets(st.integers(0, 39), max_size=3),
        "min_tokens": st.sampled_from([0, 3]),
    },
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6),
    st.sampled_from([40, 41, 300, 1000, 5000, 20_000]),
    st.sampled_from([0.1, 1.0, 3.0, 12.0]),
    st.booleans(),
    st.lists(st.tuples(PARAMS, LISTS), min_size=1, max_size=4),
)
def test_it_chooses_what_numpy_chooses(isa, logits_seed, size, spread, distinct, requests):
    logits = make_logits(logits_seed, len(requests), size, spread, distinct=distinct)
    states = [make_state(size, **params, **lists) for params, lists in requests]
    sampled = NativeSampler(4).sample(logits, states)
    for row, state in enumerate(states):
        assert sampled.token_ids[row] in possible_choices(logits[row], state)
        if sampled.token_ids[row] == NO_TOKEN:
            assert sampled.errors[row] == sampler.sample(logits[row : row + 1], [state]).errors[0]


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_p": 0.95},
        {"top_p": 0.3, "temperature": 2.0},
        {"top_k": 50, "top_p": 0.95},
        {"top_k": 3000},
        {"top_k": 9000, "top_p": 0.9, "min_p": 1e-5},
    ],
)
def test_a_vocabulary_of_49152_is_sampled_as_numpy_does(isa, params, spread):
    logits = make_logits(int(10 * spread), 8, 49_152, spread, distinct=True)
    states = [make_state(49_152, seed=seed, **params) for seed in range(8)]
    for row, token_id in enumerate(NativeSampler(8).sample(logits, states).token_ids):
        assert token_id in possible_choices(logits[row], states[row])


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**64 - 1), st.integers(1, 2**15))
def test_the_random_numbers_are_those_of_the_documented_stream(isa, seed, position):
    size = 1 << 16
    state = make_state(size, seed=seed, prompt=[1] * position)
    number = TokenUniforms(seed).at(position)
    # All tokens are equally likely, and their weights add up without rounding.
    assert NativeSampler(1).sample(np.zeros((1, size), np.float32), [state]).token_ids == [int(number * size)]


def test_equal_weights_leave_the_first_tokens_in_the_nucleus(isa):
    """Whole blocks of ties: none can be told from another by its weight."""
    for size in (100, 3000, 60_000):
        logits = np.zeros((1, size), np.float32)
        states = [make_state(size, seed=seed, top_p=0.25) for seed in range(20)]
        tokens = [NativeSampler(1).sample(logits, [state]).token_ids[0] for state in states]
        assert tokens == [int(TokenUniforms(seed).at(1) * (size // 4)) for seed in range(20)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("params", [{"temperature": 0}, {}, {"temperature": 0, "logprobs": 1, "top_k": 3}])
@pytest.mark.parametrize("place", [0, 70, 999])
def test_a_row_that_is_not_finite_fails_alone(isa, value, params, place):
    logits = make_logits(6, 3, 1000, 1.0, distinct=True)
    expected = sampler.sample(logits, [make_state(1000, **params) for _ in range(3)]).token_ids
    logits[1, place] = value
    sampled = NativeSampler(4).sample(logits, [make_state(1000, **params) for _ in range(3)])
    assert sampled.token_ids == [expected[0], NO_TOKEN, expected[2]]
    assert "not finite" in sampled.errors[1]
    assert list(sampled.errors) == [1]


def test_rows_of_nothing_but_minus_infinity_are_not_finite(isa):
    sampled = NativeSampler(1).sample(np.full((1, 50), -np.inf, np.float32), [make_state(50)])
    assert "not finite" in sampled.errors[0]


@pytest.mark.parametrize("temperature", [0, 1])
def test_restrictions_that_leave_no_token_are_an_error(isa, temperature):
    state = make_state(40, allowed_token_ids=[2], min_tokens=1, end=[2], temperature=temperature)
    sampled = NativeSampler(1).sample(make_logits(7, 1, 40, 1.0, distinct=True), [state])
    assert sampled.token_ids == [NO_TOKEN]
    assert "restrictions leave none" in sampled.errors[0]


def test_banned_tokens_outside_of_the_vocabulary_ban_nothing():
    logits = make_logits(7, 1, 40, 1.0, distinct=True)
    state = make_state(40, temperature=0, end=[40, 10**12], min_tokens=5)
    assert NativeSampler(1).sample(logits, [state]).token_ids == [int(logits[0].argmax())]


def test_a_growing_sequence_is_penalized_for_what_it_holds(isa):
    logits = make_logits(8, 1, 500, 2.0, distinct=True)
    params = {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.1}
    one = make_state(500, prompt=range(70), seed=3, **params)
    other = make_state(500, prompt=range(70), seed=3, **params)
    native = NativeSampler(1)
    for _ in range(300):
        one.token_ids += native.sample(logits, [one]).token_ids
        other.token_ids += sampler.sample(logits, [other]).token_ids
    assert one.token_ids == other.token_ids


def test_batches_may_change_and_grow_beyond_what_was_planned():
    logits = make_logits(9, 12, 300, 2.0, distinct=True)
    states = [make_state(300, seed=seed, temperature=seed % 3, bad_words=[[5]]) for seed in range(12)]
    native = NativeSampler(2)
    for rows in ([0, 1], [0, 1], [1], [], list(range(12)), [3, 1, 7]):
        for _ in range(2):
            batch = [states[row] for row in rows]
            assert (
                native.sample(logits[rows], batch).token_ids == sampler.sample(logits[rows], batch).token_ids
            )
            for state in batch:
                state.token_ids.append(1)


def test_logits_of_another_shape_than_the_batch_are_refused():
    with pytest.raises(ValueError, match="for 2 requests"):
        NativeSampler(2).sample(np.zeros((1, 5), np.float32), [make_state(5), make_state(5)])


def test_sampling_leaves_the_logits_as_they_were():
    logits = make_logits(5, 2, 40, 1.0, distinct=True)
    before = logits.copy()
    everything = {"logit_bias": {1: 5}, "repetition_penalty": 2, "allowed_token_ids": [1, 2], "top_p": 0.5}
    NativeSampler(2).sample(logits, [make_state(40, **everything), make_state(40, **everything, logprobs=3)])
    assert (logits == before).all()


def assert_equal_logprobs(found: logprobs.LogprobsOfToken, expected: logprobs.LogprobsOfToken) -> None:
    assert list(found) == list(expected)
    for token_id, entry in expected.items():
        assert found[token_id].rank == entry.rank
        assert found[token_id].decoded_token == entry.decoded_token
        # Exponentials are in float32 in both.
        assert found[token_id].logprob == pytest.approx(entry.logprob, abs=1e-6)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6),
    st.sampled_from([40, 1000, 20_000]),
    st.booleans(),
    st.lists(st.sampled_from([None, 0, 1, 5, 20, 39, -1]), min_size=1, max_size=4),
)
def test_logprobs_are_numpys(isa, logits_seed, size, distinct, counts):
    logits = make_logits(logits_seed, len(counts), size, 2.0, distinct=distinct)
    states = [
        make_state(size, seed=row, logprobs=count, temperature=row % 2 * 3.0, logit_bias={3: 9})
        for row, count in enumerate(counts)
    ]
    sampled = NativeSampler(4).sample(logits, states, token_text=str)
    assert sorted(sampled.logprobs) == [row for row, count in enumerate(counts) if count is not None]
    for row, entries in sampled.logprobs.items():
        count = states[row].num_logprobs
        expected = logprobs.token_logprobs(logits[row], sampled.token_ids[row], count, str)
        assert_equal_logprobs(entries, expected)


@pytest.mark.parametrize("count", [0, 4, 300])
def test_logprobs_of_a_prompt_are_numpys(isa, count):
    rows = make_logits(1, 600, 400, 2.0, distinct=False)
    token_ids = np.random.default_rng(0).integers(0, 400, 600).tolist()
    found = NativeSampler(1).prompt_logprobs(rows, token_ids, count, str)
    expected = logprobs.prompt_token_logprobs(rows, token_ids, count, str)
    assert len(found) == 600
    for one, other in zip(found, expected, strict=True):
        assert_equal_logprobs(one, other)


def test_logprobs_of_an_empty_chunk_are_none():
    assert NativeSampler(1).prompt_logprobs(np.zeros((0, 5), np.float32), [], 2) == []


def test_numpy_samples_where_the_library_is_missing_or_the_vocabulary_too_large(monkeypatch):
    assert isinstance(make_sampler(49_152, 4), NativeSampler)
    assert isinstance(make_sampler(10**6, 4), NumpySampler)
    monkeypatch.setattr(native_sampler, "library", lambda: None)
    assert isinstance(make_sampler(49_152, 4), NumpySampler)


def test_the_largest_vocabulary_finds_room(isa):
    size = native_sampler._MAX_VOCABULARY
    logits = make_logits(2, 2, size, 1.0, distinct=True)
    states = [make_state(size, seed=row, top_p=0.9, logit_bias={1: 1}) for row in range(2)]
    for row, token_id in enumerate(NativeSampler(2).sample(logits, states).token_ids):
        assert token_id in possible_choices(logits[row], states[row])


@pytest.mark.parametrize("make", [NumpySampler, lambda: NativeSampler(4)])
def test_reports_are_what_each_request_wants(make):
    logits = make_logits(3, 4, 40, 2.0, distinct=True)
    logits[:, 5:8] = 0
    states = [
        make_state(40, logprob_token_ids=[5, 7]),
        make_state(40, logprobs=2, detokenize=False),
        make_state(40, logprobs=2),
        make_state(40, logprob_token_ids=[6], logprobs=3, detokenize=False),
    ]
    sampled = make().sample(logits, states, token_text=str)
    listed, nameless, named, both = (sampled.logprobs[row] for row in range(4))
    assert listed.keys() == {sampled.token_ids[0], 5, 7}
    assert listed[5].logprob == pytest.approx(logprobs.token_logprobs(logits[0], 5, 0)[5].logprob, abs=1e-6)
    assert {entry.decoded_token for entry in nameless.values()} == {None}
    assert all(entry.decoded_token == str(token_id) for token_id, entry in named.items())
    assert both.keys() == {sampled.token_ids[3], 6}
    assert {entry.decoded_token for entry in both.values()} == {None}
