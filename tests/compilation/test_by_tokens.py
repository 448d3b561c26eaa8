"""A batch gets what was made for its number of tokens alone, else what its range has."""

from __future__ import annotations

import pytest

from ozone.compilation.by_tokens import ByTokens


def test_a_single_count_comes_before_its_range() -> None:
    made = ByTokens([(1, 1, "one"), (2, 8, "few"), (9, 64, "many"), (4, 4, "four"), (64, 64, "most")])
    expected = {
        1: "one",
        2: "few",
        3: "few",
        4: "four",
        5: "few",
        8: "few",
        9: "many",
        63: "many",
        64: "most",
    }
    assert {tokens: made[tokens] for tokens in expected} == expected


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [(2, 8)],
        [(1, 8), (10, 16)],
        [(1, 8), (8, 16)],
        [(1, 0)],
        [(4, 4)],
        [(1, 8), (4, 4), (9, 16)],
        [(1, 8), (2, 4)],
        [(1, 8), (12, 12)],
    ],
)
def test_ranges_that_leave_something_out_are_refused(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="token"):
        ByTokens((first, last, None) for first, last in ranges)
