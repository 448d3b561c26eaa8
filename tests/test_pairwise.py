"""Covering subsets of tests' combinations: no pair of values goes missing, and most cases do."""

from __future__ import annotations

import itertools

from pairwise import covering


def test_every_pair_of_values_is_still_run() -> None:
    axes = {"isa": "abc", "dtype": "defg", "shape": "hijkl", "window": "mn"}
    cases = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    chosen = [cases[index] for index in covering(cases)]
    assert len(chosen) < len(cases) / 4
    for one, other in itertools.combinations(axes, 2):
        met = {(case[one], case[other]) for case in chosen}
        assert met == set(itertools.product(axes[one], axes[other]))


def test_cases_of_one_or_two_parameters_all_stay() -> None:
    one = [{"seed": seed} for seed in range(20)]
    two = [{"a": a, "b": b} for a in "xyz" for b in "uv"]
    assert covering(one) == list(range(20))
    assert covering(two) == list(range(6))
