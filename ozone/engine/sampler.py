"""From logits to tokens, in numpy.

A random choice is made by inverting the distribution function over the tokens that are left, in ascending
order of token id. Their weights w are exp((logit - largest logit) / temperature) in float64; with the
position's uniform number u (`random_stream.py`), the choice is the first token whose running sum of
weights exceeds u times the sum of all. Rows do not see each other, so a batch changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ozone.engine.logprobs import token_logprobs
from ozone.engine.outputs import LogprobsOfToken
from ozone.engine.sampling_state import Logits, SamplingState
from ozone.engine.selection import indices_of_largest, invert_running_sum

NO_TOKEN = -1
_SMALL_NUCLEUS = 512
NOT_FINITE = "the model's logits are not finite (NaN or infinity) at position {}"
NONE_LEFT = "no token may stand at position {}: the request's token restrictions leave none"


@dataclass(slots=True)
class SampledTokens:
    """One token per row, or `NO_TOKEN` where `errors` says why there is none; logprobs where asked for."""

    token_ids: list[int]
    logprobs: dict[int, LogprobsOfToken] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


def sample(
    logits: Logits, states: Sequence[SamplingState], token_text: Callable[[int], str] | None = None
) -> SampledTokens:
    """Choose the next token of each row.

    Args:
        logits: shape (rows, vocab_size); not modified.
        states: one per row.
        token_text: how a token is shown in logprobs.
    """
    if all(state.is_plain for state in states):
        return _argmax(logits, states)
    sampled = SampledTokens([NO_TOKEN] * len(states))
    for row, state in enumerate(states):
        raw = logits[row]
        if not math.isfinite(raw.max()):
            sampled.errors[row] = NOT_FINITE.format(len(state.token_ids))
            continue
        token_id = _choose(state.change_logits(raw) if state.changes_logits else raw, state)
        if token_id == NO_TOKEN:
            sampled.errors[row] = NONE_LEFT.format(len(state.token_ids))
            continue
        sampled.token_ids[row] = token_id
        if state.num_logprobs is not None:
            sampled.logprobs[row] = report(raw, token_id, state, token_text)
    return sampled


def report(
    row: Logits, token_id: int, state: SamplingState, token_text: Callable[[int], str] | None
) -> LogprobsOfToken:
    """The log-probabilities that a request wants to know of the token chosen for it."""
    text = token_text if state.names_tokens else None
    return token_logprobs(row, token_id, state.num_logprobs or 0, text, also=state.logprob_token_ids or ())


def _argmax(logits: Logits, states: Sequence[SamplingState]) -> SampledTokens:
    # argmax takes NaN for the largest, so that the chosen value tells whether the row is sound.
    chosen = logits.argmax(axis=1)
    sampled = SampledTokens(chosen.tolist())
    values = logits[np.arange(len(chosen)), chosen]
    if not np.isfinite(values).all():
        for row in np.flatnonzero(~np.isfinite(values)).tolist():
            sampled.token_ids[row] = NO_TOKEN
            sampled.errors[row] = NOT_FINITE.format(len(states[row].token_ids))
    return sampled


def _choose(row: Logits, state: SamplingState) -> int:
    if state.is_greedy:
        best = int(row.argmax())
        return best if row[best] > -math.inf else NO_TOKEN
    top = float(row.max())
    if top == -math.inf:
        return NO_TOKEN
    ids, weights = _candidates(row, top, state)
    if state.top_p < 1:
        kept = _nucleus(weights, state.top_p)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    index = invert_running_sum(weights, state.uniform())
    return index if ids is None else int(ids[index])


def _candidates(
    row: Logits, top: float, state: SamplingState
) -> tuple[NDArray[np.int64] | None, NDArray[np.float64]]:
    """The tokens that min_p and top_k leave (None: all), ascending, and their weights.

    Tokens as likely as the k-th stay.
    """
    ids = None
    if state.min_p > 0:
        floor = top + state.temperature * math.log(state.min_p)
        ids = np.flatnonzero(row >= np.float32(floor))
        row = row[ids]
    if state.top_k and state.top_k < len(row):
        largest = indices_of_largest(row, state.top_k)
        ids = largest if ids is None else ids[largest]
        row = row[largest]
    weights = row.astype(np.float64)
    weights -= top
    weights *= 1 / state.temperature
    return ids, np.exp(weights, out=weights)


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Indices, ascending, of the fewest most likely tokens that hold `top_p` of the weight.

    Of equally likely ones the lowest go first. Most nuclei are small, so a few tokens are tried first.
    """
    total = float(weights.sum())
    share = top_p * total
    possible = indices_of_largest(weights, _SMALL_NUCLEUS)
    if weights[possible].sum() < share:
        # All below this mean hold less than 1 - top_p together, so that none of them belongs.
        possible = np.flatnonzero(weights >= (1 - top_p) * total / len(weights))
    ordered = np.sort(weights[possible])[::-1]
    size = min(int(np.searchsorted(np.cumsum(ordered), share)) + 1, len(ordered))
    least = ordered[size - 1]
    kept: NDArray[np.int64] = possible[weights[possible] >= least]
    surplus = len(kept) - size
    if surplus:
        ties = np.flatnonzero(weights[kept] == least)
        kept = np.delete(kept, ties[-surplus:])
    return kept
