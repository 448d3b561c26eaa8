"""Requests to a running engine from synchronous code: one stream of deltas, in the caller's thread."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterator

from ozone.engine.engine import Engine
from ozone.engine.outputs import RequestDelta
from ozone.engine.sampling_params import SamplingParams

_ids = itertools.count()


def new_request_id(prefix: str) -> str:
    """An id that is unique in this process."""
    return f"{prefix}-{next(_ids)}"


def stream(engine: Engine, prompt_token_ids: list[int], params: SamplingParams) -> Iterator[RequestDelta]:
    """Run one request and yield its deltas until each of its `n` completions has finished.

    Leaving the iterator early aborts the request.
    """
    request_id = new_request_id("stream")
    deltas: queue.SimpleQueue[RequestDelta] = queue.SimpleQueue()
    engine.add_request(request_id, prompt_token_ids, params, on_delta=deltas.put)
    unfinished = params.n
    try:
        while unfinished:
            delta = deltas.get()
            unfinished -= delta.finish_reason is not None
            yield delta
    finally:
        if unfinished:
            engine.abort(request_id)
