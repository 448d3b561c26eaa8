"""What the endpoints of one app share: the state served from, the bridge, the metrics, worker threads."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ozone.engine.prepared_params import PreparedParams
from ozone.engine.sampling_params import SamplingParams
from ozone.errors import QueueFullError, RequestError
from ozone.server.errors import ModelNotFoundError
from ozone.server.generation import DeltaBridge, Generation
from ozone.server.load_log import log_load
from ozone.server.metrics import ServerMetrics
from ozone.server.receive_buffer import BODIES, ReceiveBuffer
from ozone.server.requests import RequestBody
from ozone.server.result_memory import ResultMemory, ResultSize
from ozone.server.state import ServerState
from ozone.server.stream_interval import StreamInterval

Result = TypeVar("Result")

# Texts up to this many characters take well under a millisecond: cheaper than changing threads.
INLINE_CHARACTERS = 4096
# Longer ones take seconds. They have a thread of their own, so that others do not wait behind them.
_LARGE_CHARACTERS = 256 << 10
# Parts of an answer (tokens, log-probabilities) that take a millisecond or two to write.
INLINE_PARTS = 1024
_HEALTH_SECONDS = 0.5


class ServerContext:
    """Lives as long as the app; `running` must be entered in the event loop that serves."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.model_name = state.model_names[0]
        content_format = state.settings.chat_template_content_format
        self.chat_template = state.chat_template and state.chat_template.with_content_format(content_format)
        self.metrics = ServerMetrics(
            state.engine,
            self.model_name,
            state.max_model_len,
            cache_info=state.cache_info,
            vllm_names=state.settings.vllm_metrics,
        )
        self._bridge: DeltaBridge | None = None
        self._numbers = itertools.count(1)
        # Two threads are enough to keep the loop free, and leave the cores to the engine.
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="ozone-prompt")
        self._large_worker = ThreadPoolExecutor(1, thread_name_prefix="ozone-large-prompt")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ozone-answer")
        self.receive_buffer = ReceiveBuffer(BODIES * state.settings.max_request_bytes)
        self.result_memory = ResultMemory()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Bind to the running loop and watch the engine's health until the app stops."""
        self._bridge = DeltaBridge(asyncio.get_running_loop())
        watches = [asyncio.create_task(self._watch_engine())]
        if self.state.settings.log_stats:
            watches.append(asyncio.create_task(log_load(self.state.engine)))
        try:
            yield
        finally:
            for watch in watches:
                watch.cancel()
            for workers in (self._workers, self._large_worker, self._writer):
                workers.shutdown(wait=False, cancel_futures=True)

    @property
    def bridge(self) -> DeltaBridge:
        assert self._bridge is not None, "the app's lifespan has not started"
        return self._bridge

    def check_ready(self) -> None:
        """Raise RequestError (503) where nothing new can be served."""
        if self.state.engine.failure is not None:
            raise RequestError(f"The engine has died: {self.state.engine.failure!r}", status=503)
        if self.state.draining:
            raise RequestError("The server is shutting down", status=503)

    def check_room(self) -> None:
        """Raise QueueFullError before any work is spent on a request that the engine would not take."""
        most, waiting = self.state.max_waiting_requests, self.state.engine.stats().num_waiting
        if most is not None and waiting >= most:
            raise QueueFullError(f"{waiting} requests wait already: try again later")

    def check_model(self, name: str | None) -> None:
        """Raise RequestError (404) for a model that is not served; no name means the one there is."""
        if name is not None and name not in self.state.model_names:
            raise ModelNotFoundError(name, self.state.model_names)

    async def call(self, size: int, function: Callable[[], Result]) -> Result:
        """Run work whose time grows with `size` characters where it does not hold up the loop."""
        if size <= INLINE_CHARACTERS:
            return function()
        workers = self._workers if size <= _LARGE_CHARACTERS else self._large_worker
        return await asyncio.get_running_loop().run_in_executor(workers, function)

    async def write(self, num_parts: int, function: Callable[[], Result]) -> Result:
        """Write a part of an answer, tokens or log-probabilities, beside the loop if it is long."""
        if num_parts <= INLINE_PARTS:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._writer, function)

    async def prepare(self, body: RequestBody, params: Callable[[], SamplingParams]) -> PreparedParams:
        """Sampling parameters of a request, made ready for the engine. Raises RequestError."""
        # Checks cost about as much as tokenizing: stop strings and bad words are tokenized.
        return await self.call(body.num_bytes, lambda: self.state.engine.prepare(params()))

    def generation(self, request_id: str, size: ResultSize, interval: int = 1) -> Generation:
        """A new request's work, which the health watch knows of until it is closed.

        interval: a stream's tokens from one chunk to the next.

        Raises RequestError (400, 429) where its answer would take too much memory.
        """
        # Clients choose names, also equal ones: the engine's have a number that no name can contain.
        request_id = f"{request_id}#{next(self._numbers)}"
        reservation = self.result_memory.reserve(size)
        return Generation(
            request_id, self.state.engine, self.bridge, self.metrics, reservation, StreamInterval(interval)
        )

    async def _watch_engine(self) -> None:
        """A dead engine sends no more deltas: whoever waits for one must be told."""
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            failure = self.state.engine.failure
            if failure is not None:
                for generation in list(self.bridge.open):
                    generation.fail(f"the engine has died: {failure!r}")
