"""How many tokens of prompts go into a step beside running streams, so that these keep flowing.

A step that takes 512 tokens of a prompt may take half a second, or five with a large model: so long all
streams wait. The chunk is chosen from the time that the last steps took. No result depends on it.
"""

from __future__ import annotations

# Fewer tokens than this are hardly faster, and say little about the time of more.
_LEAST = 64
# The share of a new measurement; the rest is what earlier steps say.
_NEWEST = 0.5


class StepPace:
    """Keeps steps within `seconds`, as far as chunks of at least 64 tokens can."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._per_token: float | None = None

    def record(self, num_tokens: int, seconds: float) -> None:
        """Learn from a step that took so long."""
        if num_tokens < _LEAST:
            return
        measured = seconds / num_tokens
        if self._per_token is None:
            self._per_token = measured
        else:
            self._per_token += _NEWEST * (measured - self._per_token)

    def most_tokens(self, limit: int) -> int:
        """Tokens for the next step: at most `limit`, at least 64, in whole multiples of that."""
        if self._per_token is None:
            return limit
        fitting = int(self._seconds / self._per_token) // _LEAST * _LEAST
        return min(limit, max(_LEAST, fitting))
