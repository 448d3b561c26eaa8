"""The sampler over the native library. `sampler.py` and `logprobs.py` state what it computes, and are used
where the library was not built.

Weights may differ from numpy's in the last place, and sums are taken in another order. So the choice is the
same unless the random number falls on the border between two tokens to within 1e-12 of the whole, or a
nucleus ends as near to `top_p`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ozone.engine import logprobs, sampler
from ozone.engine.outputs import Logprob, LogprobsOfToken
from ozone.engine.sampler import NO_TOKEN, SampledTokens
from ozone.engine.sampling_state import Logits, SamplingState
from ozone.engine.sampling_table import ROW, SamplingTable
from ozone.native import kernel, library

TokenText = Callable[[int], str]

# Constants of csrc/kernels/sampling.h and logprobs.h.
_MAX_VOCABULARY = 288 << 10
_MAX_TOP_LOGPROBS = 256
_NONE_LEFT = -2
# Rows of a prompt whose logprobs are computed at once.
_PROMPT_ROWS = 256


class Sampler(Protocol):
    """Chooses tokens and reports their log-probabilities: `sampler.py` and `logprobs.py` say how."""

    def prepare(self, states: Sequence[SamplingState], positions: Sequence[int]) -> SamplingTable | None:
        """What a runner needs to choose the next tokens of these, one for each row of logits, before
        `sample` is called for the same; None where only `sample` can choose.

        positions: how many tokens each has, so that not all of the states have to come from memory.
        """

    def sample(
        self, logits: Logits, states: Sequence[SamplingState], token_text: TokenText | None = None
    ) -> SampledTokens:
        """`sampler.sample`; where a runner has chosen already, it is only read what."""

    def prompt_logprobs(
        self, rows: Logits, token_ids: Sequence[int], count: int, token_text: TokenText | None = None
    ) -> list[LogprobsOfToken]:
        """`logprobs.prompt_token_logprobs`."""


def make_sampler(vocab_size: int, max_num_seqs: int) -> Sampler:
    """The native sampler, or the one in numpy where that is not there or cannot hold the vocabulary."""
    if library() is None or vocab_size > _MAX_VOCABULARY:
        return NumpySampler()
    return NativeSampler(max_num_seqs)


class NumpySampler:
    """See `Sampler`."""

    def prepare(self, states: Sequence[SamplingState], positions: Sequence[int]) -> None:
        """Nobody chooses but numpy."""

    sample = staticmethod(sampler.sample)
    prompt_logprobs = staticmethod(logprobs.prompt_token_logprobs)


class NativeSampler:
    """See `Sampler`. While the batch stays the same, its parameters stay where they are."""

    def __init__(self, max_num_seqs: int) -> None:
        self._sample = kernel("sample")
        self._token_logprobs = kernel("token_logprobs")
        self._states: list[SamplingState] = []
        self._lists: list[tuple[int, SamplingState]] = []
        self._reports: list[int] = []
        self._banned: dict[int, NDArray[np.int64]] = {}
        self._use(SamplingTable(max_num_seqs))

    def _use(self, table: SamplingTable) -> None:
        self._table = table
        self._row_address, self._out_address = _address(table.rows), _address(table.token_ids)

    def prepare(self, states: Sequence[SamplingState], positions: Sequence[int]) -> SamplingTable:
        """See `Sampler`."""
        if states != self._states:
            self._load(list(states))
        table = self._table
        table.positions[: len(states)] = positions
        for row, state in self._lists:
            self._update_lists(row, state)
        table.chosen = False
        return table

    def sample(
        self, logits: Logits, states: Sequence[SamplingState], token_text: TokenText | None = None
    ) -> SampledTokens:
        """See `Sampler`."""
        count, table = len(states), self._table
        if not table.chosen:
            logits = np.ascontiguousarray(logits, np.float32)
            if logits.ndim != 2 or len(logits) != count:
                raise ValueError(f"logits of shape {logits.shape} for {count} requests")
            table = self.prepare(states, [len(state.token_ids) for state in states])
            self._sample(self._out_address, _address(logits), self._row_address, count, logits.shape[1])
        table.chosen = False
        sampled = SampledTokens(table.token_ids[:count].tolist())
        if count and min(sampled.token_ids) < 0:
            _describe_failures(sampled, states)
        if self._reports:
            self._report(logits, sampled, token_text)
        return sampled

    def prompt_logprobs(
        self, rows: Logits, token_ids: Sequence[int], count: int, token_text: TokenText | None = None
    ) -> list[LogprobsOfToken]:
        """See `logprobs.prompt_token_logprobs`."""
        if count > _MAX_TOP_LOGPROBS:
            return logprobs.prompt_token_logprobs(rows, token_ids, count, token_text)
        rows = np.ascontiguousarray(rows, np.float32)
        found = []
        for start in range(0, len(token_ids), _PROMPT_ROWS):
            some = token_ids[start : start + _PROMPT_ROWS]
            found += self._logprobs_of(
                rows, range(start, start + len(some)), some, [count] * len(some), [token_text] * len(some)
            )
        return found

    def _load(self, states: list[SamplingState]) -> None:
        """Take over another batch."""
        if len(states) > len(self._table):
            self._use(SamplingTable(2 * len(states)))
        for state in states:
            if state.packed is None:
                state.packed = _pack(state)
        packed = b"".join([state.packed for state in states if state.packed is not None])
        self._table.rows[: len(states)] = np.frombuffer(packed, ROW)
        self._states = states
        self._lists = [(row, s) for row, s in enumerate(states) if s.has_penalty or s.bans_tokens]
        self._reports = [row for row, state in enumerate(states) if state.num_logprobs is not None]
        self._banned.clear()

    def _update_lists(self, row: int, state: SamplingState) -> None:
        """What changes from step to step besides the position."""
        if state.bans_tokens:
            banned = self._banned[row] = np.array(state.banned(), np.int64)
            self._table.rows["banned"][row] = _address(banned), len(banned)
        if state.has_penalty:
            counts = state.counts()
            ids, generated = counts.ids, counts.generated
            self._table.rows["seen"][row] = _address(ids), _address(generated), len(ids)

    def _report(self, logits: Logits, sampled: SampledTokens, token_text: TokenText | None) -> None:
        logits = np.ascontiguousarray(logits, np.float32)
        rows, counts, texts = [], [], []
        for row in self._reports:
            token_id, state = sampled.token_ids[row], self._states[row]
            count = state.num_logprobs
            if token_id == NO_TOKEN or count is None:
                continue
            if count > _MAX_TOP_LOGPROBS or state.logprob_token_ids:
                sampled.logprobs[row] = sampler.report(logits[row], token_id, state, token_text)
            else:
                rows.append(row)
                counts.append(count)
                texts.append(token_text if state.names_tokens else None)
        if rows:
            token_ids = [sampled.token_ids[row] for row in rows]
            found = self._logprobs_of(logits, rows, token_ids, counts, texts)
            sampled.logprobs.update(zip(rows, found, strict=True))

    def _logprobs_of(
        self,
        logits: Logits,
        indices: Sequence[int],
        token_ids: Sequence[int],
        counts: Sequence[int],
        token_texts: Sequence[TokenText | None],
    ) -> list[LogprobsOfToken]:
        """`logprobs.token_logprobs` of some rows of the logits."""
        rows, vocab_size = len(indices), logits.shape[1]
        num_top = min(max(counts), vocab_size)
        where, tokens = np.array(indices, np.int64), np.array(token_ids, np.int64)
        if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            raise ValueError(f"token ids must be below {vocab_size}")
        values, ranks = np.empty((rows, 1 + num_top)), np.empty(rows, np.int64)
        top = np.empty((rows, num_top), np.int64)
        self._token_logprobs(
            _address(values),
            _address(ranks),
            _address(top),
            _address(logits),
            _address(where),
            _address(tokens),
            rows,
            num_top,
            vocab_size,
        )
        return [
            _by_token([token, *ids[:count]], [rank, *range(1, count + 1)], row, token_text)
            for token, ids, count, rank, row, token_text in zip(
                token_ids, top.tolist(), counts, ranks.tolist(), values.tolist(), token_texts, strict=True
            )
        ]


def _by_token(
    token_ids: list[int], ranks: list[int], values: list[float], token_text: TokenText | None
) -> LogprobsOfToken:
    return {
        token: Logprob(value, rank, token_text(token) if token_text else None)
        for token, rank, value in zip(token_ids, ranks, values, strict=False)
    }


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _pack(state: SamplingState) -> bytes:
    """What does not change while the sequence lives, as `ROW`. The state keeps the lists alive."""
    row = np.zeros(1, ROW)
    row["seed"] = state.seed
    row["temperature"] = 0 if state.is_greedy else state.temperature
    row["log_min_p"] = math.log(state.min_p) if state.min_p > 0 else -math.inf
    row["top_p"] = state.top_p
    row["top_k"] = state.top_k
    if state.allowed is not None:
        row["allowed"] = _address(state.allowed), len(state.allowed)
    if state.biased is not None:
        row["biased"] = _address(state.biased), _address(state.biases), len(state.biased)
    row["repetition_penalty"] = state.repetition_penalty
    row["frequency_penalty"] = state.frequency_penalty
    row["presence_penalty"] = state.presence_penalty
    return row.tobytes()


def _describe_failures(sampled: SampledTokens, states: Sequence[SamplingState]) -> None:
    for row, token_id in enumerate(sampled.token_ids):
        if token_id < 0:
            sampled.token_ids[row] = NO_TOKEN
            reason = sampler.NONE_LEFT if token_id == _NONE_LEFT else sampler.NOT_FINITE
            sampled.errors[row] = reason.format(len(states[row].token_ids))
