"""What sampling keeps for one sequence: parameters as arrays, counts for penalties, random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ozone.engine.prepared_params import TokenRules
from ozone.engine.random_stream import TokenUniforms
from ozone.engine.sampling_params import SamplingParams

Logits = NDArray[np.float32]

_SEED_MASK = 2**64 - 1


class TokenCounts:
    """The distinct tokens of a sequence and how often each was generated; a new token costs O(1)."""

    def __init__(self) -> None:
        self._slot_of: dict[int, int] = {}
        self._ids = np.empty(64, dtype=np.int64)
        self._counts = np.empty(64, dtype=np.float32)

    def add(self, token_ids: Sequence[int], *, generated: bool) -> None:
        for token_id in token_ids:
            slot = self._slot_of.get(token_id)
            if slot is None:
                slot = self._slot_of[token_id] = len(self._slot_of)
                if slot == len(self._ids):
                    self._ids = np.resize(self._ids, 2 * slot)
                    self._counts = np.resize(self._counts, 2 * slot)
                self._ids[slot] = token_id
                self._counts[slot] = 0
            self._counts[slot] += generated

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._ids[: len(self._slot_of)]

    @property
    def generated(self) -> Logits:
        return self._counts[: len(self._slot_of)]


class SamplingState:
    """Everything that choosing one sequence's next token depends on besides the logits.

    Attributes:
        token_ids: the sequence's own list, prompt and output so far.
        seed: of the sequence's random stream, 64 bits.
        num_logprobs: most likely tokens to report, or None.
        logprob_token_ids: tokens to report instead, if any. names_tokens: reports have the tokens' texts.
        rules: of the user request; allowed, biased, biases, bans_tokens are theirs.
        has_penalty: the penalties apply to the tokens that `counts` gives.
        is_plain: greedy, nothing changes the logits, nothing is reported: an argmax will do.
        changes_logits: penalties, biases or bans apply.
        packed: what a sampler keeps of the above for itself.
    """

    def __init__(
        self,
        params: SamplingParams,
        token_ids: list[int],
        *,
        seed: int,
        vocab_size: int,
        rules: TokenRules,
    ) -> None:
        self.token_ids = token_ids
        self.num_prompt_tokens = len(token_ids)
        self.temperature = params.temperature
        self.top_k = params.top_k if params.top_k < vocab_size else 0
        self.top_p = params.top_p
        self.min_p = params.min_p
        self.is_greedy = params.is_greedy
        self.num_logprobs = vocab_size if params.logprobs == -1 else params.logprobs
        self.logprob_token_ids = params.logprob_token_ids
        if self.logprob_token_ids:
            self.num_logprobs = 0
        self.names_tokens = params.detokenize
        self.seed = seed & _SEED_MASK
        self._uniforms = TokenUniforms(seed)

        self.rules = rules
        self.allowed = rules.allowed
        self.biased, self.biases = rules.biased, rules.biases
        self.bans_tokens = rules.bans_tokens
        self._min_tokens = params.min_tokens
        self.repetition_penalty = params.repetition_penalty
        self.frequency_penalty = params.frequency_penalty
        self.presence_penalty = params.presence_penalty
        self.has_penalty = (
            self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0
        )
        self._counts = TokenCounts()
        self._num_counted = 0

        self.changes_logits = (
            self.allowed is not None or self.bans_tokens or self.biased is not None or self.has_penalty
        )
        self.is_plain = self.is_greedy and not self.changes_logits and self.num_logprobs is None
        self.packed: bytes | None = None

    def uniform(self) -> float:
        """The random number for the next position."""
        return self._uniforms.at(len(self.token_ids))

    def change_logits(self, raw: Logits) -> Logits:
        """Apply, in vLLM's order, what restricts or shifts the choice. Returns a new row."""
        if self.allowed is not None:
            row = np.full_like(raw, -np.inf)
            row[self.allowed] = raw[self.allowed]
        else:
            row = raw.copy()
        if self.bans_tokens:
            row[self.banned()] = -np.inf
        if self.biased is not None:
            row[self.biased] += self.biases
        if self.has_penalty:
            self._apply_penalties(row)
        return row

    def banned(self) -> list[int]:
        """Tokens that may not come next: those that end bad words or, too early, the text."""
        num_generated = len(self.token_ids) - self.num_prompt_tokens
        return self.rules.banned(self.token_ids, num_generated, self._min_tokens)

    def counts(self) -> TokenCounts:
        """The tokens of the sequence so far. Kept only where there is a penalty."""
        if self._num_counted == 0:
            self._counts.add(self.token_ids[: self.num_prompt_tokens], generated=False)
            self._num_counted = self.num_prompt_tokens
        self._counts.add(self.token_ids[self._num_counted :], generated=True)
        self._num_counted = len(self.token_ids)
        return self._counts

    def _apply_penalties(self, row: Logits) -> None:
        counts = self.counts()
        values = row[counts.ids]
        if self.repetition_penalty != 1:
            values = np.where(values > 0, values / self.repetition_penalty, values * self.repetition_penalty)
        values -= self.frequency_penalty * counts.generated + self.presence_penalty * (counts.generated > 0)
        row[counts.ids] = values
