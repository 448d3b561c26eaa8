"""The bridge from the engine's thread to the event loop, and one HTTP request's work in the engine.

The engine calls back once per completion and step. Those calls only append to a deque; the loop is
woken once for all of them, and hands each request what is its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import NamedTuple

from starlette.types import Receive

from ozone.engine.outputs import RequestDelta
from ozone.engine.prepared_params import PreparedParams
from ozone.errors import RequestError
from ozone.server.interfaces import EngineClient
from ozone.server.metrics import RequestObserver, ServerMetrics
from ozone.server.request_pacing import Pace
from ozone.server.result_memory import Reservation, completion_entries, num_parts
from ozone.server.stream_interval import StreamInterval

# The longest that a step's first delta waits for its last one.
_STEP_SECONDS = 0.001


class ClientDisconnectedError(Exception):
    """Nobody is there to read the answer."""


class Arrival(NamedTuple):
    """A delta on its way to the prompt it belongs to; `time` is `time.monotonic` in the engine."""

    generation: Generation
    prompt_index: int
    delta: RequestDelta
    time: float


class DeltaBridge:
    """Carries deltas from the engine's thread to one event loop, a whole step at a time.

    Attributes:
        open: the requests that deltas may still come for.
        num_running: their completions that have not ended.
        num_deliveries: how often the loop handed out what had arrived.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.open: set[Generation] = set()
        self.num_running = 0
        self.num_deliveries = 0
        self._loop = loop
        self._arrivals: deque[Arrival] = deque()
        self._woken = False

    def post(self, arrival: Arrival) -> None:
        """Called in the engine's thread; never blocks."""
        self._arrivals.append(arrival)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                return  # The loop is closed: nobody is left to tell.

    def _wake(self) -> None:
        # A step posts one delta after another. Until each completion has its own, sleep for a moment: that
        # gives the engine the interpreter lock, which the two would otherwise fight for delta by delta.
        if len(self._arrivals) >= self.num_running:
            self._deliver()
        else:
            self._loop.call_later(_STEP_SECONDS, self._deliver)

    def _deliver(self) -> None:
        self.num_deliveries += 1
        self._woken = False
        while self._arrivals:
            arrival = self._arrivals.popleft()
            arrival.generation.receive(arrival)


class Generation:
    """The prompts of one HTTP request while the engine works on them.

    A context: leaving it aborts whatever still runs.
    """

    def __init__(
        self,
        request_id: str,
        engine: EngineClient,
        bridge: DeltaBridge,
        metrics: ServerMetrics,
        reservation: Reservation,
        interval: StreamInterval | None = None,
    ) -> None:
        self.request_id = request_id
        self._engine = engine
        self._bridge = bridge
        self._metrics = metrics
        self._reservation = reservation
        self._interval = interval or StreamInterval(1)
        self._arrivals: list[Arrival] = []
        self._waiter: asyncio.Future[None] | None = None
        self._disconnected = False
        self._watcher: asyncio.Task[None] | None = None
        self._observers: dict[tuple[int, int], RequestObserver] = {}
        self._submitted: list[str] = []
        # What the first prompts have produced while the last ones are still being submitted.
        self._early: list[Arrival] | None = []

    async def submit(
        self,
        prompts: Sequence[list[int]],
        prepared: PreparedParams,
        limits: Sequence[int],
        *,
        priority: int,
        cache_salt: str | None,
        arrival_time: float,
    ) -> None:
        """Queue every prompt, or none. Raises what `add_request` raises.

        limits: the most tokens of a completion, for each prompt.
        """
        pace = Pace()
        try:
            for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
                request_id = self.request_id if len(prompts) == 1 else f"{self.request_id}.{index}"

                def post(delta: RequestDelta, index: int = index) -> None:
                    self._bridge.post(Arrival(self, index, delta, time.monotonic()))

                self._engine.add_request(
                    request_id,
                    prompt,
                    prepared,
                    on_delta=post,
                    priority=priority,
                    cache_salt=cache_salt,
                    max_tokens=limit,
                )
                self._submitted.append(request_id)
                await pace.give_way()
        except BaseException:
            self._early = None
            self._abort()
            self._reservation.release()
            raise
        # What was refused counts nowhere.
        count = prepared.params.n
        for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
            for choice, observer in enumerate(self._metrics.observe(len(prompt), count, limit, arrival_time)):
                self._observers[index, choice] = observer
        self._bridge.num_running += len(self._observers)
        self._bridge.open.add(self)
        early, self._early = self._early or [], None
        for arrival in early:
            self.receive(arrival)

    @property
    def running(self) -> bool:
        """Whether any completion has not ended yet."""
        return bool(self._observers)

    def receive(self, arrival: Arrival) -> None:
        """Take one delta, in the event loop."""
        if self._early is not None:
            self._early.append(arrival)
            return
        key = arrival.prompt_index, arrival.delta.index
        observer = self._observers.get(key)
        if observer is None:
            return
        observer.delta(arrival.delta, arrival.time)
        if arrival.delta.finish_reason is not None:
            del self._observers[key]
            self._bridge.num_running -= 1
        for delta in self._interval.take(key, arrival.delta):
            self._arrivals.append(arrival._replace(delta=delta))
            self._notify()

    def fail(self, reason: str) -> None:
        """End every running completion with an error: the engine will not."""
        for prompt_index, choice in list(self._observers):
            delta = RequestDelta(self.request_id, choice, finish_reason="error", error=reason)
            self.receive(Arrival(self, prompt_index, delta, time.monotonic()))

    async def batches(self) -> AsyncIterator[list[Arrival]]:
        """What has arrived since the last time, until every completion has ended.

        Raises RequestError (500, 503) where the engine failed, ClientDisconnectedError.
        """
        while True:
            while not self._arrivals and not self._disconnected:
                if not self.running:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            if self._disconnected:
                raise ClientDisconnectedError
            arrivals, self._arrivals = self._arrivals, []
            for position, arrival in enumerate(arrivals):
                if arrival.delta.finish_reason in ("error", "abort"):
                    if position:
                        yield arrivals[:position]
                    raise _failure(arrival.delta)
            yield arrivals

    def keep(self, arrivals: Sequence[Arrival]) -> int:
        """Count what an answer in one piece keeps of them. Returns how many parts there will be to write."""
        self._reservation.add(sum(completion_entries(arrival.delta) for arrival in arrivals))
        return sum(num_parts(arrival.delta) for arrival in arrivals)

    def close(self) -> None:
        """Abort what still runs; idempotent."""
        self._bridge.open.discard(self)
        self._reservation.release()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self.running:
            for observer in self._observers.values():
                observer.aborted()
            self._bridge.num_running -= len(self._observers)
            self._observers.clear()
            self._abort()

    def _abort(self) -> None:
        for request_id in self._submitted:
            self._engine.abort(request_id)

    def watch(self, receive: Receive) -> Generation:
        """Look out for the client's disconnect until `close`."""
        self._watcher = asyncio.create_task(self._watch(receive))
        return self

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._disconnected = True
        self._notify()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _failure(last: RequestDelta) -> RequestError:
    if last.finish_reason == "abort":
        return RequestError("The server ended this request before it was finished", status=503)
    return RequestError(f"The engine failed on this request: {last.error or 'unknown reason'}", status=500)
