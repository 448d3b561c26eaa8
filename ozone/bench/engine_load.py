"""Requests to an engine in this process, with the time at which each of their tokens arrived."""

from __future__ import annotations

import queue
import time
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
    """One request, in seconds of `time.perf_counter`. `arrivals`: when tokens came, and how many."""

    prompt_tokens: int
    submitted: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    @property
    def output_tokens(self) -> int:
        return sum(tokens for _, tokens in self.arrivals)

    @property
    def time_to_first_token(self) -> float:
        return self.arrivals[0][0] - self.submitted

    @property
    def latency(self) -> float:
        return self.arrivals[-1][0] - self.submitted


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
    ends: queue.SimpleQueue[tuple[int, RequestDelta]] = queue.SimpleQueue()
    times: list[RequestTimes] = []
    ids: list[str] = []
    unfinished = 0

    def submit_until_full() -> int:
        submitted = 0
        while len(times) < len(prompts):
            index, request_id = len(times), new_request_id("bench")
            prompt = prompts[index]
            request = RequestTimes(len(prompt), time.perf_counter())

            # In the engine's thread. This thread hardly wakes: it would take a core from the step that runs.
            def on_delta(delta: RequestDelta, index: int = index, request: RequestTimes = request) -> None:
                if delta.token_ids:
                    request.arrivals.append((time.perf_counter(), len(delta.token_ids)))
                if delta.finish_reason is not None:
                    ends.put((index, delta))

            try:
                engine.add_request(request_id, prompt, params, on_delta=on_delta)
            except QueueFullError:
                if not unfinished and not submitted:
                    raise
                break
            times.append(request)
            ids.append(request_id)
            submitted += 1
        return submitted

    reported = 0

    def report() -> None:
        nonlocal reported
        come = sum(request.output_tokens for request in times)
        arrived(come - reported)
        reported = come

    try:
        unfinished = submit_until_full()
        while unfinished:
            report()
            try:
                index, delta = ends.get(timeout=_REPORT_SECONDS)
            except queue.Empty:
                continue
            if delta.finish_reason in ("error", "abort"):
                raise RequestError(f"request {index} failed: {delta.error or delta.finish_reason}")
            unfinished -= 1
            unfinished += submit_until_full()
    except BaseException:
        for request_id in ids:
            engine.abort(request_id)
        raise
    report()
    return times
