"""From the deltas of a request to its whole output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import cast

from ozone.engine.logprob_table import LogprobTable
from ozone.engine.outputs import (
    CompletionOutput,
    LogprobsOfToken,
    RequestDelta,
    RequestMetrics,
    RequestOutput,
)


class OutputCollector:
    """Assembles one request's output. Its `add` is what `Engine.add_request` takes as `on_delta`.

    Attributes:
        request_id: as given.
        error: why the request failed, if it did.

    Args:
        n: the request's number of completions.
        on_finished: called once, in the engine's thread, when the last completion has ended.
    """

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: Sequence[int],
        n: int = 1,
        *,
        on_finished: Callable[[OutputCollector], None] | None = None,
    ) -> None:
        self.error: str | None = None
        self.request_id = request_id
        self._prompt = prompt
        self._prompt_token_ids = list(prompt_token_ids)
        self._completions = [_Completion(index) for index in range(n)]
        self._num_unfinished = n
        self._prompt_logprobs: LogprobTable | None = None
        self._num_cached_tokens: int | None = None
        self._metrics: RequestMetrics | None = None
        self._on_finished = on_finished
        self._done = threading.Event()

    @property
    def finished(self) -> bool:
        return self._num_unfinished == 0

    def add(self, delta: RequestDelta) -> None:
        self._completions[delta.index].add(delta)
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs
        if self._num_cached_tokens is None:
            self._num_cached_tokens = delta.num_cached_tokens
        if delta.finish_reason is None:
            return
        self.error = self.error or delta.error
        self._metrics = delta.metrics or self._metrics
        self._num_unfinished -= 1
        if self.finished:
            self._done.set()
            if self._on_finished is not None:
                self._on_finished(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, in any thread but the engine's, for the last completion. False after `timeout` seconds."""
        return self._done.wait(timeout)

    def output(self, *, compact: bool = False) -> RequestOutput:
        """The output so far. Metrics are those of the completion that ended last.

        compact: leave log-probabilities in tables; else they are lists.
        """
        prompt_logprobs: Sequence[LogprobsOfToken | None] | None = self._prompt_logprobs
        if prompt_logprobs is not None and not compact:
            prompt_logprobs = list(prompt_logprobs)
        return RequestOutput(
            request_id=self.request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            outputs=[completion.output(compact=compact) for completion in self._completions],
            finished=self.finished,
            prompt_logprobs=prompt_logprobs,
            metrics=self._metrics,
            num_cached_tokens=self._num_cached_tokens,
        )


class _Completion:
    def __init__(self, index: int) -> None:
        self._index = index
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: LogprobTable | None = None
        self._cumulative_logprob = 0.0
        self._finish_reason: str | None = None
        self._stop_reason: int | str | None = None

    def add(self, delta: RequestDelta) -> None:
        self._text.append(delta.text)
        self._token_ids += delta.token_ids
        if delta.logprobs is not None:
            if self._logprobs is None:
                self._logprobs = LogprobTable()
            self._logprobs.extend(delta.logprobs)
            for entry, token_id in zip(delta.logprobs, delta.token_ids, strict=True):
                self._cumulative_logprob += entry[token_id].logprob
        self._finish_reason = delta.finish_reason
        self._stop_reason = delta.stop_reason

    def output(self, *, compact: bool) -> CompletionOutput:
        # Every row of a completion is known.
        logprobs = cast("Sequence[LogprobsOfToken] | None", self._logprobs)
        return CompletionOutput(
            index=self._index,
            text="".join(self._text),
            token_ids=list(self._token_ids),
            cumulative_logprob=None if logprobs is None else self._cumulative_logprob,
            logprobs=logprobs if compact or logprobs is None else list(logprobs),
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
        )
