"""The random stream is Philox4x32-10, keyed by seed and position and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone.engine.random_stream import (
    COMPLETION_STREAM,
    REQUEST_STREAM,
    TokenUniforms,
    derive_seed,
    random_words,
)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as its paper writes it, in plain integers."""
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 1 << 32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % (1 << 32), (key[1] + 0xBB67AE85) % (1 << 32)]
    return counter


@pytest.mark.parametrize(
    ("word", "expected"),
    [(0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"), (0xFFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd")],
)
def test_the_reference_gives_the_published_known_answers(word, expected):
    assert " ".join(f"{x:08x}" for x in philox([word] * 4, [word] * 2)) == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2]))
def test_words_are_those_of_the_documented_key_and_counter(seed, index, stream):
    x0, x1, _, _ = philox([index % 2**32, index >> 32, stream, 0], [seed % 2**32, seed >> 32])
    assert int(random_words(seed, np.array([index], dtype=np.uint64), stream)[0]) == x0 + (x1 << 32)


@given(st.integers(-(2**70), 2**70), st.lists(st.integers(0, 1000), max_size=20))
def test_a_positions_number_does_not_depend_on_which_were_asked_before(seed, positions):
    stream = TokenUniforms(seed)
    for position in positions:
        word = int(random_words(seed, np.array([position], dtype=np.uint64), 0)[0])
        assert stream.at(position) == (word >> 11) * 2.0**-53


def test_numbers_are_uniform():
    stream = TokenUniforms(7)
    numbers = np.array([stream.at(position) for position in range(20_000)])
    assert 0 <= numbers.min() < numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    chi_squared = ((counts - 1000.0) ** 2 / 1000).sum()
    assert chi_squared < 45  # 19 degrees of freedom: exceeded once in 1,300
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03


def test_derived_seeds_differ_by_index_seed_and_stream():
    seeds = {
        derive_seed(seed, index, stream)
        for seed in range(5)
        for index in range(50)
        for stream in (COMPLETION_STREAM, REQUEST_STREAM)
    }
    assert len(seeds) == 500
