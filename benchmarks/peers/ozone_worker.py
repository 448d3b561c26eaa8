"""Ozone at its default level."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator

from worker import serve

import ozone
from ozone import SamplingParams
from ozone.config.args import EngineArgs
from ozone.entrypoints.assemble import load

loaded = load(
    EngineArgs.from_kwargs(
        model=sys.argv[1], num_threads=int(sys.argv[2]), max_model_len=2048, enable_prefix_caching=False
    )
)


def generate(token_ids: list[int], output_tokens: int) -> Iterator[object]:
    deltas: queue.SimpleQueue = queue.SimpleQueue()
    params = SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True)
    loaded.engine.add_request("request", token_ids, params, on_delta=deltas.put)
    while True:
        delta = deltas.get()
        yield from delta.token_ids
        if delta.finish_reason is not None:
            return


serve(ozone.__version__, generate)
loaded.engine.shutdown()
