"""The sampler against a plain one that sorts everything, and its distributions against the wanted ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ozone.engine.prepared_params import TokenRules
from ozone.engine.random_stream import TokenUniforms
from ozone.engine.sampler import NO_TOKEN, sample
from ozone.engine.sampling_params import SamplingParams
from ozone.engine.sampling_state import SamplingState

SIZE = 40
PROMPT = [3, 3, 5]


def make_state(prompt=PROMPT, output=(), *, seed=0, vocab_size=SIZE, end=(), bad_words=(), **params):
    token_ids = list(prompt)
    chosen = SamplingParams(max_tokens=None, **params)
    rules = TokenRules(chosen, end_token_ids=end, bad_words=bad_words)
    state = SamplingState(chosen, token_ids, seed=seed, vocab_size=vocab_size, rules=rules)
    token_ids += output
    return state


def make_logits(seed: int, rows: int = 1, size: int = SIZE, distinct: int = 12) -> np.ndarray:
    """Logits in quarters, so that equal ones are frequent."""
    return (np.random.default_rng(seed).integers(-distinct, distinct, (rows, size)) / 4).astype(np.float32)


def reference_distribution(row, state: SamplingState, params: SamplingParams) -> np.ndarray:
    """What may be sampled, with its probability, by sorting the whole vocabulary. Penalties not included."""
    scaled = row.astype(np.float64) / params.temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    kept = [t for t in order if probabilities[t] >= params.min_p * probabilities[order[0]] * (1 - 1e-6)]
    if 0 < params.top_k < len(kept):
        kept = [t for t in kept if row[t] >= row[kept[params.top_k - 1]]]
    total = sum(probabilities[t] for t in kept)
    nucleus, mass = [], 0.0
    for token in kept:
        if nucleus and mass >= params.top_p * total - 1e-12:
            break
        nucleus.append(token)
        mass += probabilities[token]
    result = np.zeros(len(row))
    result[nucleus] = probabilities[nucleus] / mass
    return result


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.01, 0.5, 1.0, 2.0, 50.0]),
    st.sampled_from([0, 1, 2, 5, 39, 40, 41]),
    st.sampled_from([1.0, 0.95, 0.501, 0.1, 1e-9]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 2**64 - 1),
)
def test_a_random_choice_inverts_the_truncated_distribution_at_the_positions_number(
    logits_seed, temperature, top_k, top_p, min_p, seed
):
    params = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    logits = make_logits(logits_seed)
    state = make_state(seed=seed, **params)
    token_id = sample(logits, [state]).token_ids[0]
    distribution = reference_distribution(logits[0], state, SamplingParams(**params))
    sums = np.concatenate([[0], np.cumsum(distribution)])
    uniform = TokenUniforms(seed).at(len(PROMPT))
    assert distribution[token_id] > 0
    assert sums[token_id] - 1e-9 <= uniform <= sums[token_id + 1] + 1e-9


def test_large_vocabularies_take_the_same_tokens_as_small_ones_padded():
    small = make_logits(1, size=3000, distinct=40)
    large = np.full((1, 60_000), -np.inf, dtype=np.float32)
    large[0, :3000] = small
    for params in ({}, {"top_p": 0.9}, {"top_k": 7}, {"min_p": 0.01}, {"top_k": 600, "top_p": 0.99}):
        for seed in range(20):
            state = make_state(seed=seed, vocab_size=3000, **params)
            padded = make_state(seed=seed, vocab_size=60_000, **params)
            assert sample(small, [state]).token_ids == sample(large, [padded]).token_ids


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"top_k": 10, "top_p": 0.8, "min_p": 0.05, "temperature": 1.3},
    ],
)
def test_tokens_come_as_often_as_the_distribution_says(params):
    logits = make_logits(2, size=12)
    state = make_state(prompt=[0], vocab_size=12, seed=11, **params)
    expected = reference_distribution(logits[0], state, SamplingParams(**params))
    counts = np.zeros(12)
    count = 6_000
    for _ in range(count):
        counts[sample(logits, [state]).token_ids[0]] += 1
        state.token_ids.append(0)
    possible = expected > 0
    assert not counts[~possible].any()
    chi_squared = ((counts - count * expected)[possible] ** 2 / (count * expected[possible])).sum()
    assert chi_squared < 40  # at most 11 degrees of freedom: exceeded once in 28,000


def test_a_row_does_not_depend_on_its_batch():
    logits = make_logits(3, rows=30)
    choices = [{"temperature": 0}, {}, {"top_p": 0.8}, {"top_k": 3}, {"repetition_penalty": 2.0}]

    def states():
        return [make_state(seed=row, logprobs=1, **choices[row % len(choices)]) for row in range(30)]

    together = sample(logits, states())
    for row, state in enumerate(states()):
        alone = sample(logits[row : row + 1], [state])
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs[0] == together.logprobs[row]


def test_greedy_takes_the_first_of_the_most_likely():
    logits = make_logits(4, rows=50)
    states = [make_state(temperature=0) for _ in range(50)]
    assert sample(logits, states).token_ids == [int(np.flatnonzero(r == r.max())[0]) for r in logits]
    states[7] = make_state(temperature=0, logprobs=0)
    assert sample(logits, states).token_ids == [int(np.flatnonzero(r == r.max())[0]) for r in logits]


def test_sampling_leaves_the_logits_as_they_were():
    logits = make_logits(5, rows=2)
    before = logits.copy()
    everything = {"logit_bias": {1: 5}, "repetition_penalty": 2, "allowed_token_ids": [1, 2], "top_p": 0.5}
    sample(logits, [make_state(**everything), make_state(**everything, temperature=0)])
    assert (logits == before).all()


def changed(logits, **kwargs) -> np.ndarray:
    return make_state(**kwargs).change_logits(logits[0])


def test_repetition_penalty_applies_to_prompt_and_output_tokens():
    logits = np.array([[2, -2, 2, -2, 2, 3]], dtype=np.float32)
    row = changed(logits, prompt=[0, 1, 0], output=[2], vocab_size=6, repetition_penalty=2.0)
    assert row.tolist() == [1, -4, 1, -2, 2, 3]


def test_presence_and_frequency_penalties_apply_to_output_tokens_only():
    logits = np.zeros((1, 4), dtype=np.float32)
    row = changed(
        logits, prompt=[0], output=[1, 2, 1], vocab_size=4, presence_penalty=0.5, frequency_penalty=1.0
    )
    assert row.tolist() == [0, -2.5, -1.5, 0]


def test_penalties_follow_the_output_as_it_grows():
    logits = np.zeros((1, 500), dtype=np.float32)
    state = make_state(prompt=list(range(70)), vocab_size=500, frequency_penalty=1.0, repetition_penalty=1.5)
    rng = np.random.default_rng(0)
    for _ in range(400):
        state.change_logits(logits[0])
        state.token_ids.append(int(rng.integers(0, 500)))
    expected = -np.bincount(state.token_ids[70:], minlength=500)
    assert state.change_logits(logits[0]).tolist() == expected.tolist()


def test_logit_bias_is_added_before_penalties():
    logits = np.array([[1, 1]], dtype=np.float32)
    row = changed(logits, prompt=[1], vocab_size=2, logit_bias={1: 3}, repetition_penalty=2.0)
    assert row.tolist() == [1, 2]


def test_only_allowed_tokens_are_sampled():
    for seed in range(30):
        state = make_state(seed=seed, allowed_token_ids=[4, 17], temperature=5.0)
        assert sample(make_logits(seed), [state]).token_ids[0] in (4, 17)


def test_end_tokens_are_banned_until_min_tokens_are_there():
    logits = np.array([[0, 0, 9, 8]], dtype=np.float32)
    kwargs = {"vocab_size": 4, "end": [2, 3], "min_tokens": 2, "temperature": 0}
    assert sample(logits, [make_state(**kwargs, output=[1])]).token_ids == [0]
    assert sample(logits, [make_state(**kwargs, output=[1, 1])]).token_ids == [2]


def test_the_last_token_of_a_bad_word_is_banned_after_the_others():
    logits = np.array([[0, 1, 2, 3]], dtype=np.float32)
    kwargs = {"vocab_size": 4, "bad_words": [[1, 3], [2]], "temperature": 0}
    assert sample(logits, [make_state(**kwargs, prompt=[1])]).token_ids == [3]
    assert sample(logits, [make_state(**kwargs, prompt=[0], output=[1])]).token_ids == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("params", [{"temperature": 0}, {}, {"temperature": 0, "logprobs": 1}])
def test_a_row_that_is_not_finite_fails_alone(value, params):
    logits = make_logits(6, rows=3)
    expected = sample(logits, [make_state(**params) for _ in range(3)]).token_ids
    logits[1, 30] = value
    sampled = sample(logits, [make_state(**params) for _ in range(3)])
    assert sampled.token_ids == [expected[0], NO_TOKEN, expected[2]]
    assert list(sampled.errors) == [1]
    assert "not finite" in sampled.errors[1]


@pytest.mark.parametrize("temperature", [0, 1])
def test_restrictions_that_leave_no_token_are_an_error(temperature):
    state = make_state(allowed_token_ids=[2], min_tokens=1, end=[2], temperature=temperature)
    sampled = sample(make_logits(7), [state])
    assert sampled.token_ids == [NO_TOKEN]
    assert "restrictions leave none" in sampled.errors[0]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(-1, SIZE), st.booleans())
def test_logprobs_are_of_the_models_own_distribution(logits_seed, count, greedy):
    logits = make_logits(logits_seed)
    state = make_state(
        temperature=0 if greedy else 3, top_k=5, logit_bias={0: 9}, logprobs=count, repetition_penalty=1.5
    )
    sampled = sample(logits, [state], token_text=str)
    row = logits[0].astype(np.float64)
    expected = row - np.log(np.exp(row).sum())
    order = sorted(range(SIZE), key=lambda token: (-row[token], token))
    chosen = sampled.token_ids[0]
    entries = sampled.logprobs[0]
    most_likely = order if count == -1 else order[:count]
    assert list(entries) == [chosen, *(token for token in most_likely if token != chosen)]
    for token_id, entry in entries.items():
        assert entry.logprob == pytest.approx(expected[token_id], abs=1e-5)
        assert entry.rank == order.index(token_id) + 1
        assert entry.decoded_token == str(token_id)
