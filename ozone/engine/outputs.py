"""What comes back from a request, under vLLM's names, and the deltas the engine emits step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ozone.engine.logprob_table import LogprobTable

# Steps are counted by how many tokens they computed, in these sizes.
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(slots=True)
class Logprob:
    """One token's log-probability. `rank` counts from 1 in the vocabulary's order of likelihood."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


LogprobsOfToken = dict[int, Logprob]


@dataclass(slots=True)
class RequestDelta:
    """What one engine step added to one completion of a request; the engine's unit of output.

    Attributes:
        request_id: the id that `Engine.add_request` was given.
        index: which of the request's `n` completions.
        text: new text, never a broken character; may be empty.
        token_ids: new tokens.
        logprobs: one entry per new token where asked for.
        finish_reason: ``"stop"``, ``"length"``, ``"abort"``, ``"error"``, or None while it runs.
        stop_reason: the stop string or token id that ended it, if one did.
        error: why, where `finish_reason` is ``"error"``.
        prompt_logprobs: on the first delta of index 0 where asked for; entry 0 is None.
        num_cached_tokens: on the first delta: prompt tokens found in the prefix cache.
        metrics: on the last delta of a completion (the one with a `finish_reason`).
    """

    request_id: str
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobsOfToken] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    prompt_logprobs: LogprobTable | None = None
    num_cached_tokens: int | None = None
    metrics: RequestMetrics | None = None


@dataclass
class CompletionOutput:
    """One completion of a request."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: Sequence[LogprobsOfToken] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestMetrics:
    """Times of one request, in seconds of `time.monotonic`."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None


@dataclass
class RequestOutput:
    """A request's prompt and its completions."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: Sequence[LogprobsOfToken | None] | None = None
    metrics: RequestMetrics | None = None
    num_cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine. Counters count from start; usage is a share from 0 to 1.

    steps_by_tokens: how many steps had at most so many tokens as `STEP_TOKENS` says, the last one more.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    kv_cache_usage: float = 0.0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    num_steps: int = 0
    num_step_tokens: int = 0
    steps_by_tokens: tuple[int, ...] = (0,) * (len(STEP_TOKENS) + 1)
