"""What was compiled for ranges of token counts, and which of it is for a batch."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class ByTokens(Generic[T]):
    """Things by the token counts that they are for. What is for one count alone comes before a range."""

    def __init__(self, made: Iterable[tuple[int, int, T]]) -> None:
        """
        Args:
            made: (first, last, what is for them): ranges that follow each other from 1 on, then single counts
                within them.

        Raises: `ValueError` where there is anything else.
        """
        self._lasts: list[int] = []
        self._ranges: list[T] = []
        self._single: dict[int, T] = {}
        for first, last, thing in made:
            following = self._lasts[-1] + 1 if self._lasts else 1
            if first == last < following:
                self._single[first] = thing
            elif first == following <= last and not self._single:
                self._lasts.append(last)
                self._ranges.append(thing)
            else:
                raise ValueError(f"{first} to {last} tokens do not follow what comes before them")
        if not self._ranges:
            raise ValueError("there are no ranges of token counts")

    def __getitem__(self, tokens: int) -> T:
        """What is for a batch of so many tokens."""
        if (single := self._single.get(tokens)) is not None:
            return single
        return self._ranges[bisect.bisect_left(self._lasts, tokens)]
