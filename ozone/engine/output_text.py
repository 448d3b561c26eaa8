"""From generated tokens to text that may be shown: detokenization and stop strings together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ozone.engine.stop_strings import StopMatcher


class Detokenizer(Protocol):
    """Turns tokens into text piece by piece; never returns a part of a character."""

    def append(self, token_ids: Sequence[int]) -> str: ...

    def flush(self) -> str: ...


class OutputText:
    """The text of one completion as it grows."""

    __slots__ = ("_detokenizer", "_stops")

    def __init__(self, detokenizer: Detokenizer, stops: StopMatcher | None) -> None:
        self._detokenizer = detokenizer
        self._stops = stops

    @property
    def has_stops(self) -> bool:
        """Whether there are strings that end it."""
        return self._stops is not None

    def append(self, token_ids: Sequence[int], *, may_stop: bool) -> tuple[str, str | None]:
        """New text and the stop string that it completed, if any."""
        text = self._detokenizer.append(token_ids)
        if self._stops is None:
            return text, None
        return self._stops.feed(text, may_stop=may_stop)

    def finish(self, *, may_stop: bool) -> tuple[str, str | None]:
        """What was kept back, now that no token follows."""
        text = self._detokenizer.flush()
        if self._stops is None:
            return text, None
        text, stop = self._stops.feed(text, may_stop=may_stop)
        return text + self._stops.flush(), stop
