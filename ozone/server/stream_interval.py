"""Fewer and larger chunks for a stream: vLLM's `--stream-interval`."""

from __future__ import annotations

from ozone.engine.outputs import RequestDelta

Key = tuple[int, int]  # which prompt, which of its completions

# Log-probabilities that wait for their chunk at most: they are what takes memory.
_MOST_ENTRIES = 4096


class StreamInterval:
    """Joins the deltas of each completion of a request until there are so many tokens.

    The first one goes on at once, so that no first token waits, and so does the last one.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._begun: set[Key] = set()
        self._held: dict[Key, RequestDelta] = {}

    def take(self, key: Key, delta: RequestDelta) -> list[RequestDelta]:
        """The deltas that go on now that this one has come, in order."""
        if self._num_tokens == 1:
            return [delta]
        held = self._held.pop(key, None)
        if delta.finish_reason in ("error", "abort"):
            return [delta] if held is None else [held, delta]
        if held is not None:
            delta = _joined(held, delta)
        if key not in self._begun or delta.finish_reason is not None or self._is_full(delta):
            self._begun.add(key)
            return [delta]
        self._held[key] = delta
        return []

    def _is_full(self, delta: RequestDelta) -> bool:
        num_tokens, logprobs = len(delta.token_ids), delta.logprobs
        return num_tokens >= self._num_tokens or bool(
            logprobs and len(logprobs) * len(logprobs[-1]) >= _MOST_ENTRIES
        )


def _joined(first: RequestDelta, second: RequestDelta) -> RequestDelta:
    """Two deltas of one completion as one. Neither is the completion's first."""
    second.text = first.text + second.text
    second.token_ids = first.token_ids + second.token_ids
    if first.logprobs is not None:
        second.logprobs = first.logprobs + (second.logprobs or [])
    return second
