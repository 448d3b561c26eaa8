"""Selecting the largest and inverting sums agree with sorting and with summing one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ozone.engine.selection import indices_of_largest, invert_running_sum


@given(st.integers(0, 2**32), st.integers(1, 3000), st.integers(1, 400), st.sampled_from([3, 50, 10**6]))
def test_the_largest_are_those_that_reach_the_kth_of_a_sort(seed, size, count, distinct):
    values = np.random.default_rng(seed).integers(0, distinct, size).astype(np.float32)
    if count < size:
        expected = np.flatnonzero(values >= np.sort(values)[-count])
    else:
        expected = np.arange(size)
    assert indices_of_largest(values, count).tolist() == expected.tolist()


def test_minus_infinity_is_smaller_than_all():
    values = np.full(1000, -np.inf, dtype=np.float32)
    values[[3, 900]] = [1, 2]
    assert indices_of_largest(values, 2).tolist() == [3, 900]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=1000), st.floats(0, 1, exclude_max=True))
def test_inversion_finds_the_first_running_sum_above_the_share(weights, uniform):
    # Whole numbers: sums are exact in any order.
    if sum(weights) == 0:
        weights[0] = 1
    target = uniform * sum(weights)
    expected = next((i for i, total in enumerate(np.cumsum(weights).tolist()) if total > target), None)
    index = invert_running_sum(np.array(weights, dtype=np.float64), uniform)
    assert weights[index] > 0
    assert index == (expected if expected is not None else np.flatnonzero(weights)[-1])


def test_inversion_never_ends_on_a_weight_of_zero_at_the_end():
    weights = np.zeros(1000)
    weights[:300] = 0.1
    assert invert_running_sum(weights, float(np.nextafter(1.0, 0.0))) == 299
