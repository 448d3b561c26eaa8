"""Requests to an engine in this process, with the time at which each of their tokens arrived."""

from __future__ import annotations

import queue
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ozone.engine.engine import Engine
from ozone.engine.outputs import RequestDelta
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.streaming import new_request_id
from ozone.errors import QueueFullError, RequestError

_REPORT_SECONDS = 0.2


@dataclass(slots=True)
class RequestTimes:
    """One request, in seconds of `time.perf_counter`. `arrivals`: when each of its tokens came."""

    prompt_tokens: int
    submitted: float
    arrivals: list[float] = field(default_factory=list)

    @property
    def output_tokens(self) -> int:
        return len(self.arrivals)

    @property
    def time_to_first_token(self) -> float:
        return self.arrivals[0] - self.submitted

    @property
    def latency(self) -> float:
        return self.arrivals[-1] - self.submitted


class _Receiver:
    """Takes all requests' deltas, in the engine's thread: another would take a core from the step that runs.

    One for all of them, which writes one thing after another, so that what is measured is not how it finds
    its own memory.
    """

    def __init__(self) -> None:
        self.ends: queue.SimpleQueue[RequestDelta] = queue.SimpleQueue()
        self._times = array("d")
        self._request_ids: list[str] = []

    def add(self, delta: RequestDelta) -> None:
        for _ in delta.token_ids:
            self._times.append(time.perf_counter())
            self._request_ids.append(delta.request_id)
        if delta.finish_reason is not None:
            self.ends.put(delta)

    @property
    def num_tokens(self) -> int:
        return len(self._times)

    def sort_to(self, requests: dict[str, RequestTimes]) -> None:
        """Give each request the times of its tokens."""
        for request_id, when in zip(self._request_ids, self._times, strict=True):
            requests[request_id].arrivals.append(when)


def greedy(output_len: int) -> SamplingParams:
    """Exactly `output_len` tokens, whatever the model says."""
    return SamplingParams(temperature=0.0, max_tokens=output_len, ignore_eos=True)


def run_requests(
    engine: Engine,
    prompts: Sequence[list[int]],
    params: SamplingParams,
    *,
    arrived: Callable[[int], object] = lambda _: None,
) -> list[RequestTimes]:
    """Submit all prompts at once, as far as the engine's queue takes them, and wait for their ends.

    Times are taken in the engine's thread, when a token is handed over. `arrived` is called
    with numbers of tokens that have come, now and then.

    Raises: `RequestError` if the engine refuses or fails a request, or would have to cut one short.
    """
    for prompt in prompts:
        wanted = len(prompt) + (params.max_tokens or 0)
        if wanted > engine.max_model_len:
            raise RequestError(
                f"{len(prompt)} prompt tokens and {params.max_tokens} to generate are {wanted}; "
                f"the context holds {engine.max_model_len} (max_model_len)"
            )
    receiver = _Receiver()
    requests: dict[str, RequestTimes] = {}
    unfinished = 0

    def submit_until_full() -> int:
        submitted = 0
        while len(requests) < len(prompts):
            request_id, prompt = new_request_id("bench"), prompts[len(requests)]
            times = RequestTimes(len(prompt), time.perf_counter())
            try:
                engine.add_request(request_id, prompt, params, on_delta=receiver.add)
            except QueueFullError:
                if not unfinished and not submitted:
                    raise
                break
            requests[request_id] = times
            submitted += 1
        return submitted

    reported = 0

    def report() -> None:
        nonlocal reported
        come = receiver.num_tokens
        arrived(come - reported)
        reported = come

    try:
        unfinished = submit_until_full()
        while unfinished:
            report()
            try:
                delta = receiver.ends.get(timeout=_REPORT_SECONDS)
            except queue.Empty:
                continue
            if delta.finish_reason in ("error", "abort"):
                index = list(requests).index(delta.request_id)
                raise RequestError(f"request {index} failed: {delta.error or delta.finish_reason}")
            unfinished -= 1
            unfinished += submit_until_full()
    except BaseException:
        for request_id in requests:
            engine.abort(request_id)
        raise
    report()
    receiver.sort_to(requests)
    return list(requests.values())
