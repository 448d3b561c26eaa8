"""Medians and spreads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone.bench.statistics import Summary, percentile, summary_json

_values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(_values, st.floats(0, 100))
def test_a_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), abs=1e-6)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_summary_of_one_value_is_that_value() -> None:
    summary = Summary.of([3.0])
    assert (summary.count, summary.mean, summary.median, summary.p10, summary.p99) == (1, 3.0, 3.0, 3.0, 3.0)


def test_an_outlier_moves_the_mean_and_not_the_median() -> None:
    summary = Summary.of([1.0, 1.0, 1.0, 1.0, 101.0])
    assert (summary.mean, summary.median, summary.minimum, summary.maximum) == (21.0, 1.0, 1.0, 101.0)


def test_nothing_measured_is_null_in_json() -> None:
    assert summary_json([]) is None
    assert summary_json([2.0]) == Summary.of([2.0]).as_json()
