"""The state of one sequence while the engine works on it, and the user request it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ozone.engine.block_pool import ROOT_HASH
from ozone.engine.logprob_table import LogprobTable
from ozone.engine.outputs import RequestDelta, RequestMetrics

if TYPE_CHECKING:
    from ozone.engine.output_text import Detokenizer
    from ozone.engine.sampling_params import SamplingParams
    from ozone.engine.sampling_state import SamplingState
    from ozone.engine.stop_strings import StopMatcher


class Request:
    """One sequence (one of a user request's `n` completions). The runner reads only the first five fields.

    Attributes:
        request_id: unique within the engine.
        token_ids: prompt tokens followed by generated tokens.
        num_prompt_tokens: how many of them are the prompt.
        block_ids: blocks of the KV cache that hold its positions, in order. The list only grows; a request
            that loses its blocks gets another.
        num_computed_tokens: positions already in the KV cache.

        group: the user request; index: which of its completions this is.
        group_id, on_delta: the group's id and where its deltas go, nearer in memory to what each token needs.
        order: place in line, lower first: (priority, arrival, index). Kept when it is preempted.
        end_token_ids: tokens that end it; eos_token_ids: those of them that the model ends with itself.
        max_total_tokens: generation ends with ``length`` at this many tokens, prompt included.
        detokenizer: makes its text, or None where nobody wants any. stops: what may end the text, or None.
        block_hashes: chained hashes of the full blocks of `token_ids`, as far as they were needed.
        num_registered_blocks: leading blocks that the block pool knows by hash.
        last_token_time: when its newest token came, in seconds of `time.monotonic`; None before the first.
        wants_prompt_logprobs: every row of the prompt's logits is still wanted.
    """

    __slots__ = (
        "block_hashes",
        "block_ids",
        "detokenizer",
        "end_token_ids",
        "eos_token_ids",
        "group",
        "group_id",
        "index",
        "is_running",
        "last_token_time",
        "max_total_tokens",
        "metrics",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_prompt_tokens",
        "num_registered_blocks",
        "on_delta",
        "order",
        "prompt_logprobs",
        "request_id",
        "sampling",
        "stops",
        "token_ids",
        "wants_prompt_logprobs",
    )

    def __init__(
        self,
        group: RequestGroup,
        index: int,
        token_ids: list[int],
        *,
        order: tuple[int, int, int],
        max_total_tokens: int,
        eos_token_ids: frozenset[int],
        end_token_ids: frozenset[int],
        sampling: SamplingState,
        detokenizer: Detokenizer | None,
        stops: StopMatcher | None,
        metrics: RequestMetrics,
    ) -> None:
        self.request_id = group.request_id if index == 0 else f"{group.request_id}/{index}"
        self.token_ids = token_ids
        self.num_prompt_tokens = len(self.token_ids)
        self.block_ids: list[int] = []
        self.num_computed_tokens = 0

        self.group = group
        self.group_id = group.request_id
        self.on_delta = group.on_delta
        self.index = index
        self.order = order
        self.max_total_tokens = max_total_tokens
        self.eos_token_ids = eos_token_ids
        self.end_token_ids = end_token_ids
        self.sampling = sampling
        self.detokenizer = detokenizer
        self.stops = stops
        self.metrics = metrics

        self.is_running = False
        self.last_token_time: float | None = None
        self.block_hashes: list[bytes] = []
        self.num_registered_blocks = 0
        self.num_cached_tokens: int | None = None
        # Completions share their prompt: the first one reports on it.
        self.wants_prompt_logprobs = index == 0 and group.params.prompt_logprobs is not None
        self.prompt_logprobs = LogprobTable([None]) if self.wants_prompt_logprobs else None

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens


@dataclass(slots=True, eq=False)
class RequestGroup:
    """One user request: `n` completions of one prompt and where their deltas go.

    `unfinished` holds the completions that have not ended, by index. `held` are those that wait until
    the first one has computed the prompt, so that they find its blocks. `root_hash` begins its chain of
    block hashes, and `prompt_hashes` is that chain as far as the prompt goes, hashed once for all.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    on_delta: Callable[[RequestDelta], None]
    root_hash: bytes = ROOT_HASH
    prompt_hashes: list[bytes] = field(default_factory=list)
    unfinished: dict[int, Request] = field(default_factory=dict)
    held: list[Request] = field(default_factory=list)
