"""The seam between the engine, which never sees a tensor library, and whatever computes logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ozone.engine.request import Request
    from ozone.engine.sampling_table import SamplingTable


@dataclass(slots=True)
class ScheduledRequest:
    """One request's share of a step: the tokens at positions [start, start + num_tokens).

    Attributes:
        request: supplies ``token_ids`` (prompt and output so far) and ``block_ids``.
        start: first position computed, equal to the tokens already in the KV cache.
        num_tokens: how many positions to compute, at least 1.
        logits: rows of logits wanted: of no token, of the last one, or of all of them.
    """

    request: Request
    start: int
    num_tokens: int
    logits: Literal["none", "last", "all"]

    @property
    def reaches_end(self) -> bool:
        """Whether all tokens of the request are computed behind this, so that the next one is sampled."""
        return self.start + self.num_tokens == len(self.request.token_ids)


class Runner(Protocol):
    """Computes logits for scheduled tokens and keeps the paged KV cache.

    Attributes:
        num_blocks: blocks of the KV cache; block ids are 0 to num_blocks - 1.
        block_size: tokens a block holds.
        vocab_size: columns of the logits.
    """

    num_blocks: int
    block_size: int
    vocab_size: int

    def execute(
        self, scheduled: list[ScheduledRequest], table: SamplingTable | None = None
    ) -> NDArray[np.float32]:
        """Run one step.

        Args:
            table: one row for each row of logits. A runner that can chooses their tokens too, and says so
                there (`SamplingTable.chosen`).

        Returns: float32 logits, shape (rows, vocab_size), C-contiguous, rows in the order of
        `scheduled` and within a request by position: one row for ``last``, num_tokens for ``all``.
        The array may be a view of a static buffer: it is valid until the next call.
        """
        ...
