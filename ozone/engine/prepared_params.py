"""Sampling parameters made ready for the engine: checked against the model, lists as arrays, words as tokens.

`Engine.prepare` makes them once for a user request. Its prompts and completions share them; nothing
changes them. What depends on a prompt or on a position is `SamplingState`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ozone.engine.sampling_params import SamplingParams
    from ozone.engine.stop_strings import StopStrings


class TokenRules:
    """Which tokens a user request allows, favours and bans.

    Attributes:
        allowed: token ids, int64; no other may be chosen. None: any.
        biased, biases: token ids, int64, and what is added to their logits, float32; or None and none.
        bans_tokens: at some positions some tokens may not be chosen: see `banned`.
    """

    __slots__ = ("_endings", "_forbidden", "_premature", "allowed", "bans_tokens", "biased", "biases")

    def __init__(
        self,
        params: SamplingParams,
        *,
        end_token_ids: Collection[int] = (),
        bad_words: Sequence[Sequence[int]] = (),
    ) -> None:
        """`bad_words`: the tokens of each. `end_token_ids`: what `min_tokens` forbids at first."""
        self.allowed = _ids(params.allowed_token_ids)
        self.biased = _ids(params.logit_bias)
        self.biases = np.array(list((params.logit_bias or {}).values()), dtype=np.float32)
        self._premature = list(end_token_ids) if params.min_tokens else []
        self._forbidden = [word[0] for word in bad_words if len(word) == 1]
        # Longer words by the token before their last, so that a step looks at a few of them only.
        self._endings: dict[int, list[tuple[list[int], int]]] = {}
        for word in bad_words:
            if len(word) > 1:
                self._endings.setdefault(word[-2], []).append((list(word[:-1]), word[-1]))
        self.bans_tokens = bool(bad_words or self._premature)

    def banned(self, token_ids: Sequence[int], num_generated: int, min_tokens: int) -> list[int]:
        """Tokens that may not follow: those that end bad words or, too early, the text.

        token_ids: prompt and output; only the last `num_generated` can begin a bad word.
        """
        banned = self._premature + self._forbidden if num_generated < min_tokens else self._forbidden.copy()
        if self._endings and num_generated:
            for beginning, last in self._endings.get(token_ids[-1], ()):
                size = len(beginning)
                if size <= num_generated and token_ids[-size:] == beginning:
                    banned.append(last)
        return banned


@dataclass(frozen=True, slots=True, eq=False)
class PreparedParams:
    """Sampling parameters that the engine has checked, and what it made of them.

    Attributes:
        params: a copy that nobody else holds.
        stops: the automaton of the stop strings, if there are any.
        eos_token_ids: tokens that the model ends with itself. end_token_ids: these and the request's own.
    """

    params: SamplingParams
    rules: TokenRules
    stops: StopStrings | None
    eos_token_ids: frozenset[int]
    end_token_ids: frozenset[int]


def _ids(token_ids: Collection[int] | None) -> NDArray[np.int64] | None:
    return np.array(list(token_ids), dtype=np.int64) if token_ids else None
