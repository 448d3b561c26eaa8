"""From generated tokens to text that may be shown: detokenization and stop strings together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ozone.engine.stop_strings import StopMatcher


class Detokenizer(Protocol):
    """Turns tokens into text piece by piece; never returns a part of a character."""

    def append(self, token_ids: Sequence[int]) -> str: ...

    def flush(self) -> str: ...


def add_tokens(
    detokenizer: Detokenizer, stops: StopMatcher | None, token_ids: Sequence[int], *, may_stop: bool
) -> tuple[str, str | None]:
    """New text and the stop string that it completed, if any."""
    text = detokenizer.append(token_ids)
    return (text, None) if stops is None else stops.feed(text, may_stop=may_stop)


def finish_text(
    detokenizer: Detokenizer, stops: StopMatcher | None, *, may_stop: bool
) -> tuple[str, str | None]:
    """What was kept back, now that no token follows."""
    text = detokenizer.flush()
    if stops is None:
        return text, None
    text, stop = stops.feed(text, may_stop=may_stop)
    return text + stops.flush(), stop
