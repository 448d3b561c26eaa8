"""The bridge from the engine's thread: nothing is lost or reordered, and a step arrives as a whole."""

from __future__ import annotations

import asyncio
import threading
import time

from ozone.engine.outputs import EngineStats, RequestDelta
from ozone.engine.prepared_params import PreparedParams, TokenRules
from ozone.engine.sampling_params import SamplingParams
from ozone.server.generation import DeltaBridge, Generation
from ozone.server.metrics import ServerMetrics
from ozone.server.result_memory import ResultMemory, ResultSize

STEPS, REQUESTS = 50, 40
PARAMS = SamplingParams()
PREPARED = PreparedParams(PARAMS, TokenRules(PARAMS), None, frozenset(), frozenset())


class SteppingEngine:
    """Gives each of its requests a token every few milliseconds, as an engine's step does."""

    failure = None

    def __init__(self) -> None:
        self.receivers = []

    def add_request(self, request_id, prompt_token_ids, params, *, on_delta, **how) -> None:
        self.receivers.append((request_id, on_delta))

    def abort(self, request_id: str) -> None:
        raise AssertionError(f"{request_id} was aborted")

    def stats(self) -> EngineStats:
        return EngineStats()

    def run(self) -> None:
        for step in range(STEPS):
            time.sleep(0.003)
            for request_id, on_delta in self.receivers:
                reason = "length" if step == STEPS - 1 else None
                on_delta(RequestDelta(request_id, token_ids=[step], finish_reason=reason))


def test_the_deltas_of_a_step_are_handed_out_together() -> None:
    async def read(generation: Generation) -> list[int]:
        return [
            token
            async for arrivals in generation.batches()
            for arrival in arrivals
            for token in arrival.delta.token_ids
        ]

    async def serve() -> int:
        engine = SteppingEngine()
        bridge = DeltaBridge(asyncio.get_running_loop())
        metrics = ServerMetrics(engine, "stub", 64)
        readers = []
        for number in range(REQUESTS):
            generation = Generation(
                f"request-{number}", engine, bridge, metrics, ResultMemory().reserve(ResultSize(0, 0))
            )
            await generation.submit(
                [[1, 2]], PREPARED, [16], priority=0, cache_salt=None, arrival_time=time.monotonic()
            )
            readers.append(read(generation))
        assert len(bridge.open) == bridge.num_running == REQUESTS
        thread = threading.Thread(target=engine.run)
        thread.start()
        assert await asyncio.gather(*readers) == [list(range(STEPS))] * REQUESTS
        thread.join()
        assert bridge.num_running == 0
        return bridge.num_deliveries

    # On a busy machine a step may arrive in pieces, or several at once; one by one they would be 2,000.
    assert 0 < asyncio.run(serve()) < STEPS * 4
