"""Log-probabilities in the shapes that OpenAI's two APIs and vLLM's extra field give them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from ozone.engine.outputs import LogprobsOfToken
from ozone.server.interfaces import ServerTokenizer

# JSON has no infinity; OpenAI reports the very unlikely as -9999.
_LEAST = -9999.0

PromptLogprobs = Sequence[LogprobsOfToken | None]


class TokenNames:
    """How tokens are written: as their text, or as ``token_id:7``."""

    def __init__(self, tokenizer: ServerTokenizer, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def __call__(self, token_id: int, decoded: str | None = None) -> str:
        if self._as_ids:
            return f"token_id:{token_id}"
        return self._tokenizer.token_text(token_id) if decoded is None else decoded


class CompletionLogprobs:
    """Builds the `logprobs` object of text completions, piece by piece of one choice.

    `top` is how many alternatives a position shows; 0 shows the chosen token alone.
    """

    def __init__(self, names: TokenNames, top: int) -> None:
        self._names = names
        self._top = top
        self._offset = 0

    def piece(self, token_ids: Sequence[int], logprobs: Iterable[LogprobsOfToken | None]) -> dict[str, Any]:
        """The next tokens with what is known of them; None stands for a prompt's first token."""
        tokens: list[str] = []
        chosen: list[float | None] = []
        alternatives: list[orjson.Fragment | None] = []
        offsets: list[int] = []
        for token_id, known in zip(token_ids, logprobs, strict=True):
            own = known.get(token_id) if known else None
            name = self._names(token_id, own.decoded_token if own else None)
            tokens.append(name)
            offsets.append(self._offset)
            self._offset += len(name)
            chosen.append(max(own.logprob, _LEAST) if own else None)
            alternatives.append(_written(self._alternatives(known)) if known else None)
        return {
            "tokens": tokens,
            "token_logprobs": chosen,
            "top_logprobs": alternatives,
            "text_offset": offsets,
        }

    def _alternatives(self, known: LogprobsOfToken) -> dict[str, float]:
        named: dict[str, float] = {}
        if self._top:
            for token_id, entry in known.items():
                named.setdefault(self._names(token_id, entry.decoded_token), max(entry.logprob, _LEAST))
        return named


def chat_logprobs(
    token_ids: Sequence[int], logprobs: Sequence[LogprobsOfToken], top: int, names: TokenNames
) -> dict[str, Any]:
    """The `logprobs` object of a chat choice; `top` alternatives a position, -1 for all."""
    content = []
    for token_id, known in zip(token_ids, logprobs, strict=True):
        ranked = sorted(
            (item for item in known.items() if top < 0 or (item[1].rank or 1) <= top),
            key=lambda item: -item[1].logprob,
        )
        own = known[token_id]
        entry = _chat_entry(names(token_id, own.decoded_token), own.logprob)
        entry["top_logprobs"] = [
            _chat_entry(names(other, known[other].decoded_token), known[other].logprob) for other, _ in ranked
        ]
        content.append(_written(entry))
    return {"content": content, "refusal": None}


def _chat_entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": max(logprob, _LEAST), "bytes": list(token.encode("utf-8", "replace"))}


def prompt_logprobs_json(logprobs: PromptLogprobs | None, names: TokenNames) -> list[Any] | None:
    """vLLM's extra field `prompt_logprobs`: per token None or token id -> what is known of it."""
    if logprobs is None:
        return None
    return [known and _written(_by_token_id(known, names)) for known in logprobs]


def _by_token_id(known: LogprobsOfToken, names: TokenNames) -> dict[str, Any]:
    return {
        str(token_id): {
            "logprob": max(entry.logprob, _LEAST),
            "rank": entry.rank,
            "decoded_token": names(token_id, entry.decoded_token),
        }
        for token_id, entry in known.items()
    }


def _written(value: Any) -> orjson.Fragment:
    """JSON as bytes at once: as objects, the entries of a long answer would take ten times the memory."""
    return orjson.Fragment(orjson.dumps(value))
