"""Many requests through a running engine from one thread: submit as the queue has room, collect, report."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ozone.engine.collector import OutputCollector
from ozone.engine.engine import Engine
from ozone.engine.outputs import RequestOutput
from ozone.engine.prepared_params import PreparedParams
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.prompts import EncodedPrompt
from ozone.entrypoints.streaming import new_request_id
from ozone.errors import QueueFullError, RequestError


class GenerationError(RuntimeError):
    """The engine failed on some requests. `outputs` holds what every request has produced; the failed
    ones have ``finish_reason`` "error".
    """

    def __init__(self, message: str, outputs: list[RequestOutput]) -> None:
        super().__init__(message)
        self.outputs = outputs


class BatchRequest(NamedTuple):
    """One prompt of a batch and how to continue it."""

    prompt: EncodedPrompt
    params: SamplingParams
    priority: int


def run_batch(
    engine: Engine, requests: Sequence[BatchRequest], use_tqdm: bool | Callable[..., Any]
) -> list[RequestOutput]:
    """Run all requests to their ends and return their outputs in order.

    Raises:
        RequestError: a request can never be served; none has been started then.
        GenerationError: the engine failed on a request; the others have finished.
    """
    prepared: dict[int, PreparedParams] = {}  # by identity: prompts often share one object
    for place, request in enumerate(requests):
        try:
            if id(request.params) not in prepared:
                prepared[id(request.params)] = engine.prepare(request.params)
            params = prepared[id(request.params)]
            engine.check_request(request.prompt.token_ids, params, priority=request.priority)
        except RequestError as error:
            if len(requests) > 1:
                raise RequestError(f"prompt {place}: {error}", param=error.param) from None
            raise
    return _Batch(engine, requests, prepared, use_tqdm).run()


class _Batch:
    def __init__(
        self,
        engine: Engine,
        requests: Sequence[BatchRequest],
        prepared: Mapping[int, PreparedParams],
        use_tqdm: bool | Callable[..., Any],
    ) -> None:
        self._engine = engine
        self._prepared = prepared
        self._waiting = deque(requests)
        # Outputs grow in the engine's thread, at next to no cost: a thread that woke up for every token would
        # take a core away from the step that computes the next one.
        self._finished: queue.SimpleQueue[OutputCollector] = queue.SimpleQueue()
        self._collectors: dict[str, OutputCollector] = {}
        self._unfinished: set[str] = set()
        self._progress = _progress(use_tqdm, len(requests))

    def run(self) -> list[RequestOutput]:
        try:
            self._submit_until_full()
            while self._unfinished:
                self._end(self._finished.get())
        finally:
            for request_id in self._unfinished:
                self._engine.abort(request_id)
            if self._progress is not None:
                self._progress.close()
        outputs = [collector.output() for collector in self._collectors.values()]
        errors = [collector.error for collector in self._collectors.values() if collector.error]
        if errors:
            raise GenerationError(f"{len(errors)} of {len(outputs)} requests failed: {errors[0]}", outputs)
        return outputs

    def _submit_until_full(self) -> None:
        """The queue is bounded; what does not fit is submitted as requests finish."""
        while self._waiting:
            prompt, params, priority = self._waiting[0]
            request_id = new_request_id("batch")
            collector = OutputCollector(
                request_id,
                prompt.text,
                prompt.token_ids,
                params.n,
                on_finished=self._finished.put,
            )
            try:
                self._engine.add_request(
                    request_id,
                    prompt.token_ids,
                    self._prepared[id(params)],
                    on_delta=collector.add,
                    priority=priority,
                    cache_salt=prompt.cache_salt,
                )
            except QueueFullError:
                if not self._unfinished:
                    raise
                return
            self._waiting.popleft()
            self._collectors[request_id] = collector
            self._unfinished.add(request_id)

    def _end(self, collector: OutputCollector) -> None:
        self._unfinished.discard(collector.request_id)
        if self._progress is not None:
            self._progress.update(1)
        self._submit_until_full()


def _progress(use_tqdm: bool | Callable[..., Any], total: int) -> Any:
    if not use_tqdm:
        return None
    if callable(use_tqdm):
        return use_tqdm(total=total, desc="Processed prompts")
    from tqdm import tqdm

    return tqdm(total=total, desc="Processed prompts", dynamic_ncols=True)
