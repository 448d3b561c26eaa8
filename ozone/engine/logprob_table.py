"""Log-probabilities of many tokens, kept as arrays until somebody reads them.

As dictionaries of objects an entry takes 250 bytes and more, and every garbage collection looks at it; here
it takes 16.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from ozone.engine.outputs import Logprob, LogprobsOfToken

Row = LogprobsOfToken | None


class LogprobTable(Sequence[Row]):
    """A list of `LogprobsOfToken`, or None for a token of which nothing is known, that only grows."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._token_ids = array("i")
        self._values = array("d")
        self._ranks = array("i")  # 0 where there is none
        self._ends = array("q")
        self._unknown: set[int] = set()
        self._texts: dict[int, str | None] = {}
        self.extend(rows)

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows at the end."""
        for row in rows:
            if row is None:
                self._unknown.add(len(self._ends))
            else:
                for token_id, entry in row.items():
                    self._token_ids.append(token_id)
                    self._values.append(entry.logprob)
                    self._ranks.append(entry.rank or 0)
                    self._texts[token_id] = entry.decoded_token
            self._ends.append(len(self._token_ids))

    def truncate(self, num_rows: int) -> None:
        """Forget all rows but the first ones."""
        end = self._ends[num_rows - 1] if num_rows else 0
        del self._ends[num_rows:], self._token_ids[end:], self._values[end:], self._ranks[end:]
        self._unknown = {place for place in self._unknown if place < num_rows}

    @property
    def num_entries(self) -> int:
        """Tokens in all rows."""
        return len(self._token_ids)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # negative ones count from the end; IndexError behind it
        if place in self._unknown:
            return None
        start, end = self._ends[place - 1] if place else 0, self._ends[place]
        return {
            token_id: Logprob(value, rank or None, self._texts[token_id])
            for token_id, value, rank in zip(
                self._token_ids[start:end], self._values[start:end], self._ranks[start:end], strict=True
            )
        }
