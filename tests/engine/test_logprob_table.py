"""A table of log-probabilities reads as the list of dictionaries that it was made of."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone.engine.logprob_table import LogprobTable
from ozone.engine.outputs import Logprob

TEXTS = [None, "", "a", "é"]
ENTRY = st.builds(Logprob, st.floats(allow_nan=False, max_value=0), st.none() | st.integers(1, 100))
ROW = st.none() | st.dictionaries(st.integers(0, 60000), ENTRY, max_size=4)


@given(st.lists(ROW, max_size=8), st.integers(0, 8), st.lists(ROW, max_size=3))
def test_it_is_the_list_that_was_put_in(rows: list, kept: int, more: list) -> None:
    for row in [*rows, *more]:
        for token_id, entry in (row or {}).items():
            entry.decoded_token = TEXTS[token_id % 4]
    table = LogprobTable(rows)
    assert list(table) == rows and len(table) == len(rows)
    kept = min(kept, len(rows))
    table.truncate(kept)
    table.extend(more)
    expected = rows[:kept] + more
    assert list(table) == table[:] == expected
    assert table.num_entries == sum(len(row) for row in expected if row)
    assert list(pickle.loads(pickle.dumps(table))) == expected
    assert not expected or table[-1] == expected[-1]
    with pytest.raises(IndexError):
        table[len(expected)]
