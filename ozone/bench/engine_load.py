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

    Times are taken in the engine's thread, when a token is handed over. `arrived` is called with the
    number of tokens, as they come.

    Raises: `RequestError` if the engine refuses or fails a request, or would have to cut one short.
    """
    for prompt in prompts:
        wanted = len(prompt) + (params.max_tokens or 0)
        if wanted > engine.max_model_len:
            raise RequestError(
                f"{len(prompt)} prompt tokens and {params.max_tokens} to generate are {wanted}; "
                f"the context holds {engine.max_model_len} (max_model_len)"
            )
    deltas: queue.SimpleQueue[tuple[float, int, RequestDelta]] = queue.SimpleQueue()
    times: list[RequestTimes] = []
    ids: list[str] = []
    unfinished = 0

    def submit_until_full() -> int:
        submitted = 0
        while len(times) < len(prompts):
            index, request_id = len(times), new_request_id("bench")
            prompt = prompts[index]

            def on_delta(delta: RequestDelta, index: int = index) -> None:
                deltas.put((time.perf_counter(), index, delta))

            begin = time.perf_counter()
            try:
                engine.add_request(request_id, prompt, params, on_delta=on_delta)
            except QueueFullError:
                if not unfinished and not submitted:
                    raise
                break
            times.append(RequestTimes(len(prompt), begin))
            ids.append(request_id)
            submitted += 1
        return submitted

    try:
        unfinished = submit_until_full()
        while unfinished:
            when, index, delta = deltas.get()
            if delta.token_ids:
                times[index].arrivals.append((when, len(delta.token_ids)))
                arrived(len(delta.token_ids))
            if delta.finish_reason in ("error", "abort"):
                raise RequestError(f"request {index} failed: {delta.error or delta.finish_reason}")
            if delta.finish_reason is not None:
                unfinished -= 1
                unfinished += submit_until_full()
    except BaseException:
        for request_id in ids:
            engine.abort(request_id)
        raise
    return times
