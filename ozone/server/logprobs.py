"""Log-probabilities in the shapes that OpenAI's two APIs and vLLM's extra field give them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from ozone.engine.outputs import Logprob, LogprobsOfToken
from ozone.server.token_names import LEAST, TokenNames

PromptLogprobs = Sequence[LogprobsOfToken | None]

# The four lists of OpenAI's object, in the order in which an entry gives them.
_COLUMNS = ("text_offset", "tokens", "token_logprobs", "top_logprobs")


class CompletionLogprobs:
    """Builds the `logprobs` object of text completions, piece by piece of one choice.

    Args:
        count: alternatives of a position besides the token itself, as `logprobs` asks for; -1 for all.
        waits_for_text: a token is told of when its text is, since a stop string may take the text back.
    """

    def __init__(self, names: TokenNames, count: int, *, waits_for_text: bool = False) -> None:
        self._names = names
        self._most = None if count < 0 else count + 1
        self._waits_for_text = waits_for_text
        self._untold: list[tuple[int, str, float | None, orjson.Fragment | None]] = []

    def add(
        self,
        token_ids: Sequence[int],
        logprobs: Iterable[LogprobsOfToken | None],
        offset_of: Callable[[int], int],
    ) -> None:
        """Take the next tokens with what is known of them; None stands for a prompt's first token.

        offset_of: called once for each token, in order.
        """
        for token_id, known in zip(token_ids, logprobs, strict=True):
            own = known.get(token_id) if known else None
            name = self._names.unambiguous(token_id, own.decoded_token if own else None)
            value = max(own.logprob, LEAST) if own else None
            top = _written(self._names.by_name(known, self._most)) if known else None
            self._untold.append((offset_of(token_id), name, value, top))

    def piece(self, text_length: int, *, ended: bool) -> dict[str, Any] | None:
        """The object for what was added since, or None. text_length: characters of the text so far."""
        entries = self._untold
        count = len(entries)
        if self._waits_for_text and not ended:
            count = bisect_left(entries, text_length, key=lambda entry: entry[0])
        if not count:
            return None
        told, self._untold = entries[:count], entries[count:]
        columns = dict(zip(_COLUMNS, map(list, zip(*told, strict=True)), strict=True))
        columns["text_offset"] = [min(offset, text_length) for offset in columns["text_offset"]]
        return columns


def chat_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[LogprobsOfToken],
    top: int,
    names: TokenNames,
    *,
    last_is_left_out: bool = False,
) -> dict[str, Any]:
    """The `logprobs` object of a chat choice; the bytes of all its tokens, joined, are the text.

    Args:
        top: alternatives of a position, -1 for all.
        last_is_left_out: the last token ended the text and is not in it.
    """
    content: list[orjson.Fragment] = []
    for token_id, known in zip(token_ids, logprobs, strict=True):
        ranked = sorted(
            (item for item in known.items() if top < 0 or (item[1].rank or 1) <= top),
            key=lambda item: -item[1].logprob,
        )
        own = _chat_entry(token_id, known[token_id], names)
        if last_is_left_out and len(content) == len(token_ids) - 1:
            own["bytes"] = []
        own["top_logprobs"] = [_chat_entry(other, entry, names) for other, entry in ranked]
        content.append(_written(own))
    return {"content": content, "refusal": None}


def _chat_entry(token_id: int, entry: Logprob, names: TokenNames) -> dict[str, Any]:
    return {
        "token": names.text(token_id, entry.decoded_token),
        "logprob": max(entry.logprob, LEAST),
        "bytes": names.text_bytes(token_id),
    }


def prompt_logprobs_json(logprobs: PromptLogprobs | None, names: TokenNames) -> list[Any] | None:
    """vLLM's extra field `prompt_logprobs`: per token None or token id -> what is known of it."""
    if logprobs is None:
        return None
    return [known and _written(_by_token_id(known, names)) for known in logprobs]


def _by_token_id(known: LogprobsOfToken, names: TokenNames) -> dict[str, Any]:
    return {
        str(token_id): {
            "logprob": max(entry.logprob, LEAST),
            "rank": entry.rank,
            "decoded_token": names.text(token_id, entry.decoded_token),
        }
        for token_id, entry in known.items()
    }


def _written(value: Any) -> orjson.Fragment:
    """JSON as bytes at once: as objects, the entries of a long answer would take ten times the memory."""
    return orjson.Fragment(orjson.dumps(value))
