"""Log-probabilities of the model's own distribution: before temperature, penalties and truncation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ozone.engine.outputs import Logprob, LogprobsOfToken
from ozone.engine.selection import indices_of_largest

Row = NDArray[np.float32]


def token_logprobs(
    row: Row,
    token_id: int,
    count: int,
    token_text: Callable[[int], str] | None = None,
    also: Sequence[int] = (),
) -> LogprobsOfToken:
    """`token_id`'s log-probability and rank, followed by those of the `count` most likely tokens.

    Equally likely tokens rank by id. `row`: finite maximum, shape (vocab_size,). `also`: further tokens,
    which get no rank.
    """
    top = row.max()
    log_sum = float(top) + math.log(float(np.exp(row - top).sum(dtype=np.float64)))
    value = row[token_id]
    rank = 1 + int(np.count_nonzero(row > value)) + int(np.count_nonzero(row[:token_id] == value))
    ranked: dict[int, int | None] = {token_id: rank}
    for other in also:
        ranked.setdefault(other, None)
    if count:
        ranked.update((token, place) for place, token in enumerate(_most_likely(row, count), 1))
    return {
        token: Logprob(float(row[token]) - log_sum, place, token_text(token) if token_text else None)
        for token, place in ranked.items()
    }


def prompt_token_logprobs(
    rows: Row, token_ids: Sequence[int], count: int, token_text: Callable[[int], str] | None = None
) -> list[LogprobsOfToken]:
    """`token_logprobs` of each row and the token that followed it. rows: shape (tokens, vocab_size)."""
    return [
        token_logprobs(row, token_id, count, token_text)
        for row, token_id in zip(rows, token_ids, strict=True)
    ]


def _most_likely(row: Row, count: int) -> list[int]:
    """The `count` most likely tokens, best first, of equally likely ones the lowest first."""
    candidates = indices_of_largest(row, count)
    order = np.argsort(-row[candidates], kind="stable")
    return [int(token) for token in candidates[order[:count]]]
