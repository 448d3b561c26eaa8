"""How many log-probabilities answers may hold until they are sent: for one request, and for all together.

An entry (one token with its log-probability) takes about 600 bytes until it has become JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ozone.engine.outputs import RequestDelta
from ozone.engine.sampling_params import SamplingParams
from ozone.errors import QueueFullError, RequestError

MAX_ENTRIES = 1_000_000
MAX_ENTRIES_OF_ALL = 4_000_000


@dataclass(frozen=True)
class ResultSize:
    """Entries that a request's answer can have: `prompts` is exact, `completions` the most."""

    prompts: int
    completions: int


def result_size(
    prompt_lens: Sequence[int],
    limits: Sequence[int],
    params: SamplingParams,
    *,
    vocab_size: int,
    echo: bool,
    stream: bool,
) -> ResultSize:
    """The entries of an answer. `limits`: most tokens of a completion, for each prompt.

    With `echo` each completion repeats those of its prompt. A stream keeps none of its completions'.
    """

    def per_token(count: int | None) -> int:
        return 0 if count is None else 1 + (vocab_size if count == -1 else count)

    prompts = sum(prompt_lens) * per_token(params.prompt_logprobs) * (params.n if echo else 1)
    listed = len(params.logprob_token_ids or ())
    reported = per_token(listed or params.logprobs)
    completions = 0 if stream else sum(limits) * params.n * reported
    return ResultSize(prompts, completions)


def completion_entries(delta: RequestDelta) -> int:
    """The entries that a delta carries for its own tokens."""
    return sum(map(len, delta.logprobs)) if delta.logprobs else 0


def num_parts(delta: RequestDelta) -> int:
    """What there is to write of a delta: tokens and entries."""
    parts = len(delta.token_ids) + completion_entries(delta)
    if delta.prompt_logprobs is not None:
        parts += delta.prompt_logprobs.num_entries
    return parts


class ResultMemory:
    """What all requests under way hold. Used in the event loop only."""

    def __init__(self) -> None:
        self.num_held = 0

    def reserve(self, size: ResultSize) -> Reservation:
        """Take a request in. RequestError: 400 for one that is too large, 429 where others hold much."""
        most = size.prompts + size.completions
        if most > MAX_ENTRIES:
            raise RequestError(
                f"The answer could hold {most} log-probabilities; at most {MAX_ENTRIES} go into one: ask for "
                "fewer prompts, completions, tokens or alternatives",
                param="logprobs" if size.completions > size.prompts else "prompt_logprobs",
            )
        if most and self.num_held + size.prompts > MAX_ENTRIES_OF_ALL:
            raise QueueFullError(
                f"Requests under way hold {self.num_held} log-probabilities, and this one adds up to {most}; "
                f"the most is {MAX_ENTRIES_OF_ALL}: try again later"
            )
        return Reservation(self, size.prompts)


class Reservation:
    """One request's part."""

    def __init__(self, memory: ResultMemory, num_entries: int) -> None:
        self._memory = memory
        self._num_entries = 0
        self.add(num_entries)

    def add(self, num_entries: int) -> None:
        """Completions have brought more."""
        self._num_entries += num_entries
        self._memory.num_held += num_entries

    def release(self) -> None:
        """Give it all back; idempotent."""
        self.add(-self._num_entries)
