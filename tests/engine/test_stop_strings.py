"""A stop string is found wherever the text is cut, and no part of one is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone.engine.stop_strings import StopMatcher, StopStrings

texts = st.text("abc", max_size=40)
stop_sets = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4)


def first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """The stop string completed first, the longest of those completed together, and its end."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


def longest_beginning(text: str, stops: list[str]) -> int:
    """How much of the end of `text` could become a stop string."""
    return max((k for s in stops for k in range(1, len(s)) if text.endswith(s[:k])), default=0)


@given(st.lists(texts, max_size=12), stop_sets, st.booleans())
def test_text_shown_is_all_that_is_safe_and_nothing_else(pieces, stops, include):
    matcher = StopMatcher(StopStrings(stops), include_stop=include)
    shown = read = ""
    for piece in pieces:
        read += piece
        text, stop = matcher.feed(piece)
        shown += text
        expected = first_stop(read, stops)
        if expected is not None:
            end, found = expected
            assert stop == found
            assert shown == read[: end if include else end - len(found)]
            return
        assert stop is None
        assert shown == read[: len(read) - longest_beginning(read, stops)]
    assert shown + matcher.flush() == read


@given(st.lists(texts, max_size=12), stop_sets)
def test_stop_strings_are_passed_over_where_the_text_may_not_stop(pieces, stops):
    matcher = StopMatcher(StopStrings(stops), include_stop=False)
    shown = "".join(matcher.feed(piece, may_stop=False)[0] for piece in pieces)
    assert shown + matcher.flush() == "".join(pieces)


@pytest.mark.parametrize("count", [1, 2000])
def test_many_long_stop_strings_cost_no_more_than_one_step_per_character(count):
    stops = StopStrings([f"{'ab' * 50}{i}" for i in range(count)])
    matcher = StopMatcher(stops, include_stop=False)
    text = "ab" * 5000
    shown, stop = matcher.feed(text)
    assert stop is None
    assert len(text) - len(shown) == 100
