"""The core loop: requests in from any thread, one step after another in the engine's own, deltas out."""

from __future__ import annotations

import bisect
import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from ozone.config.schema import CacheConfig, SchedulerConfig
from ozone.engine.admission import Admission
from ozone.engine.block_pool import BlockPool
from ozone.engine.native_sampler import make_sampler
from ozone.engine.output_processor import advance
from ozone.engine.outputs import STEP_TOKENS, EngineStats, RequestDelta
from ozone.engine.prepared_params import PreparedParams
from ozone.engine.request import Request, RequestGroup
from ozone.engine.runner import Runner, ScheduledRequest
from ozone.engine.sampler import SampledTokens
from ozone.engine.sampling_params import SamplingParams
from ozone.engine.scheduler import Scheduler
from ozone.engine.step_pace import StepPace
from ozone.errors import QueueFullError, RequestError

if TYPE_CHECKING:
    from ozone.engine.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Engine:
    """Serves requests with a runner until it is shut down.

    An exception that one request causes ends that request alone; one in a step ends the requests that
    ran (or, where none did, the first in line), and the engine goes on with those that wait.
    `add_request`, `abort`, `stats`, `drain` and `shutdown` may be called from any thread.

    Attributes:
        runner, tokenizer, max_model_len: as given.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer | None,
        *,
        cache: CacheConfig,
        scheduler: SchedulerConfig,
        max_model_len: int,
        eos_token_ids: Collection[int],
        max_logprobs: int = 20,
        seed: int = 0,
    ) -> None:
        self.runner = runner
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self._max_waiting_requests = scheduler.max_waiting_requests
        self._pool = BlockPool(
            runner.num_blocks, runner.block_size, enable_prefix_caching=cache.enable_prefix_caching
        )
        self._scheduler = Scheduler(scheduler, self._pool, vocab_size=runner.vocab_size)
        self._admission = Admission(
            tokenizer,
            scheduler,
            vocab_size=runner.vocab_size,
            cache_tokens=runner.num_blocks * runner.block_size,
            max_model_len=max_model_len,
            eos_token_ids=eos_token_ids,
            max_logprobs=max_logprobs,
            seed=seed,
        )
        self._sampler = make_sampler(runner.vocab_size, scheduler.max_num_seqs)
        self._pid = os.getpid()
        self._pace: StepPace | None = None
        self._token_text: Callable[[int], str] | None = None
        if tokenizer is not None:
            self._token_text = functools.cache(tokenizer.token_text)
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._num_steps = 0
        self._num_step_tokens = 0
        self._steps_by_tokens = [0] * (len(STEP_TOKENS) + 1)

        # Everything below is guarded by the lock, except that the engine's thread may look without it.
        self._lock = threading.Lock()
        self._work_arrived = threading.Condition(self._lock)
        self._all_settled = threading.Condition(self._lock)
        self._groups: dict[str, RequestGroup] = {}
        self._unsettled: set[RequestGroup] = set()
        self._num_held = 0
        self._arrived: deque[RequestGroup] = deque()
        self._num_arrived = 0
        self._aborted: deque[RequestGroup] = deque()
        self._closed: str | None = None
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ozone-engine", daemon=True)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an engine cannot be pickled or copied: it holds a KV cache and a thread")

    # ---- called from any thread ----

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine's thread, if a bug did."""
        return self._failure

    def limit_steps(self, seconds: float) -> None:
        """Take prompts in chunks that keep steps beside running streams within that time."""
        self._pace = StepPace(seconds)

    def start(self) -> None:
        """Start the engine's thread. Requests may be added before."""
        self._thread.start()

    def prepare(self, params: SamplingParams) -> PreparedParams:
        """Check sampling parameters and make ready what many prompts can share.

        With long lists this takes milliseconds, so a caller with a loop to keep free does it elsewhere.
        Raises RequestError for what can never be served.
        """
        return self._admission.prepare(params)

    def add_request(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams | PreparedParams,
        *,
        on_delta: Callable[[RequestDelta], None],
        priority: int = 0,
        cache_salt: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Queue a request. `on_delta` is called in the engine's thread and must not block.

        Deltas carry the index, 0 to n - 1, of the completion they belong to; the last one of each has a
        finish_reason. priority: lower goes first; the scheduling policy must be "priority".
        cache_salt: cached prefixes are shared only among requests with the same salt, or all without one.
        max_tokens: what stands for the parameter of that name, for this prompt alone.

        Raises:
            RequestError: bad input, a request id in use, or (status 503) an engine that is closing.
            QueueFullError: too many requests wait.
        """
        prepared = params if isinstance(params, PreparedParams) else self.prepare(params)
        params = prepared.params
        group = self._admission.admit(
            request_id, prompt_token_ids, prepared, on_delta, priority, cache_salt, max_tokens
        )
        if os.getpid() != self._pid:
            raise RequestError(
                f"this engine runs in process {self._pid}, and {os.getpid()} was forked from it: load a "
                "model in the child, or start it with multiprocessing's spawn",
                status=503,
            )
        with self._lock:
            if self._closed is not None:
                raise RequestError(self._closed, status=503)
            if request_id in self._groups:
                raise RequestError(f"request id {request_id!r} is in use", param="request_id")
            num_waiting = self._num_waiting()
            if num_waiting + params.n > self._max_waiting_requests:
                raise QueueFullError(
                    f"{num_waiting} requests wait, the most is {self._max_waiting_requests}: try again later"
                )
            self._groups[request_id] = group
            self._unsettled.add(group)
            self._num_arrived += params.n
            self._arrived.append(group)
            self._work_arrived.notify()

    def check_request(
        self, prompt_token_ids: list[int], params: SamplingParams | PreparedParams, *, priority: int = 0
    ) -> None:
        """Raise what `add_request` would for a request that can never be served."""
        prepared = params if isinstance(params, PreparedParams) else self.prepare(params)
        self._admission.check(prompt_token_ids, prepared, priority)

    def abort(self, request_id: str) -> None:
        """End a request, if it is still there, with a last delta ``abort`` for each completion."""
        with self._lock:
            group = self._groups.get(request_id)
            if group is not None:
                self._aborted.append(group)
                self._work_arrived.notify()

    def stats(self) -> EngineStats:
        free, total = self._pool.num_free, self._pool.num_blocks
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=self._num_waiting(),
            num_blocks=total,
            num_free_blocks=free,
            kv_cache_usage=1 - free / total if total else 0.0,
            prefix_cache_queries=self._scheduler.prefix_cache_queries,
            prefix_cache_hits=self._scheduler.prefix_cache_hits,
            num_preemptions=self._scheduler.num_preemptions,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            num_steps=self._num_steps,
            num_step_tokens=self._num_step_tokens,
            steps_by_tokens=tuple(self._steps_by_tokens),
        )

    def reset_prefix_cache(self) -> bool:
        """Forget every cached prefix. False, and nothing is done, while requests run or wait."""
        with self._lock:
            if self._unsettled:
                return False
            self._pool.forget_all()  # the engine's thread touches the pool only while requests are unsettled
            return True

    def drain(self, timeout: float | None = None) -> bool:
        """Take no new requests and wait for those that are here. False if `timeout` seconds pass first."""
        with self._lock:
            self._closed = self._closed or "the engine is shutting down and takes no new requests"
            return self._all_settled.wait_for(lambda: not self._unsettled, timeout)

    def shutdown(self) -> None:
        """End what is left with ``abort`` and stop the thread. May be called again."""
        with self._lock:
            self._closed = self._closed or "the engine has been shut down"
            self._stopping = True
            self._work_arrived.notify()
        if self._thread.ident is None:
            self._end_all("abort", None)
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def _num_waiting(self) -> int:
        return self._num_arrived + self._num_held + len(self._scheduler.waiting)

    # ---- the engine's thread ----

    def _run(self) -> None:
        try:
            while self._take_in():
                if self._scheduler.running or self._scheduler.waiting:
                    self._step()
        except BaseException as error:
            logger.critical("the engine's thread ended on a bug", exc_info=True)
            self._failure = error
            with self._lock:
                self._closed = f"the engine has failed: {_describe(error)}"
            self._end_all("error", self._closed)
            return
        self._end_all("abort", None)

    def _take_in(self) -> bool:
        """Sleep while there is nothing to do; move arrivals to the scheduler; end the aborted."""
        with self._lock:
            while not (self._arrived or self._aborted or self._stopping):
                if self._scheduler.running or self._scheduler.waiting:
                    return True
                self._work_arrived.wait()
            if self._stopping:
                return False
            arrived, aborted = list(self._arrived), list(self._aborted)
            self._arrived.clear()
            self._aborted.clear()
            for group in arrived:
                first, *others = group.unfinished.values()
                group.held = others
                self._num_held += len(others)
                self._scheduler.add(first)
            self._num_arrived = 0
        for group in aborted:
            self._end_group(group, "abort", None)
        return True

    def _step(self) -> None:
        scheduled: list[ScheduledRequest] = []
        pace, began = self._pace, time.monotonic()
        try:
            scheduled = self._scheduler.schedule(pace)
            if not scheduled:
                raise RuntimeError("requests wait or run, but none could be scheduled")
            self._count_step(self._scheduler.num_scheduled_tokens)
            requests = [item.request for item in scheduled if item.logits == "last" or item.reaches_end]
            states = [request.sampling for request in requests]
            # Prompts that are reported on have rows of logits that nothing is sampled from.
            reports = "all" in [item.logits for item in scheduled]
            table = self._sampler.prepare(states, [len(request.token_ids) for request in requests])
            logits = self.runner.execute(scheduled, None if reports else table)
            self._scheduler.complete(scheduled)
            if reports:
                logits = logits[self._report_prompts(scheduled, logits)]
            sampled = self._sampler.sample(logits, states, self._token_text)
        except Exception as error:
            logger.exception("a step failed: the requests in it end, the engine goes on")
            self._fail_step(error, was_scheduled=bool(scheduled))
            return
        now = time.monotonic()
        if pace is not None:
            pace.record(self._scheduler.num_scheduled_tokens, now - began)
        for row, request in enumerate(requests):
            if request.is_running:
                self._advance(request, row, sampled, now)

    def _count_step(self, num_tokens: int) -> None:
        self._num_steps += 1
        self._num_step_tokens += num_tokens
        self._steps_by_tokens[bisect.bisect_left(STEP_TOKENS, num_tokens)] += 1

    def _report_prompts(self, scheduled: list[ScheduledRequest], logits: NDArray[np.float32]) -> list[int]:
        """Use the rows that report on prompts. Returns the rows that tokens are sampled from."""
        rows = []
        end = 0
        for item in scheduled:
            if item.logits == "all":
                self._report_prompt(item, logits[end : end + item.num_tokens])
                end += item.num_tokens
            elif item.logits == "last":
                end += 1
            if item.reaches_end:
                rows.append(end - 1)
        return rows

    def _report_prompt(self, item: ScheduledRequest, logits: NDArray[np.float32]) -> None:
        request = item.request
        params = request.group.params
        count = params.prompt_logprobs
        if not np.isfinite(logits.max(axis=1)).all():
            self._fail_unsound(
                request, "the model's logits are not finite (NaN or infinity) within the prompt"
            )
            return
        followers = request.token_ids[item.start + 1 : item.start + 1 + item.num_tokens]
        try:
            found = self._sampler.prompt_logprobs(
                logits[: len(followers)],
                followers,
                self.runner.vocab_size if count == -1 else count or 0,
                self._token_text if params.detokenize else None,
            )
            assert request.prompt_logprobs is not None
            request.prompt_logprobs.extend(found)
        except Exception as error:
            self._fail(request.group, error)

    def _advance(self, request: Request, row: int, sampled: SampledTokens, now: float) -> None:
        """Give a request its token; what goes wrong here is its own."""
        if sampled.errors and row in sampled.errors:
            self._fail_unsound(request, sampled.errors[row])
            return
        try:
            begins = request.last_token_time is None
            self._generation_tokens += 1
            delta = advance(request, sampled.token_ids[row], sampled.logprobs.get(row), now)
            if begins and request.index == 0:
                self._prompt_tokens += request.num_prompt_tokens
                self._release_held(request.group)
            if delta.finish_reason is not None:
                self._retire(request, delta)
            request.on_delta(delta)
            if delta.finish_reason is None:
                return
        except Exception as error:
            self._fail(request.group, error)
        if not request.group.unfinished:
            self._settle(request.group)

    def _release_held(self, group: RequestGroup) -> None:
        """The prompt's blocks are there: let the other completions share them."""
        for request in group.held:
            self._scheduler.add(request)
        self._num_held -= len(group.held)
        group.held = []

    def _retire(self, request: Request, last: RequestDelta) -> None:
        """Free what a completion holds, before its last delta is seen."""
        self._scheduler.remove(request)
        group = request.group
        del group.unfinished[request.index]
        metrics = request.metrics
        metrics.last_token_time = request.last_token_time
        metrics.finished_time = time.monotonic()
        last.metrics = metrics
        if not group.unfinished:
            with self._lock:
                del self._groups[group.request_id]

    def _settle(self, group: RequestGroup) -> None:
        """A request's last delta has been sent."""
        with self._lock:
            self._unsettled.discard(group)
            if not self._unsettled:
                self._all_settled.notify_all()

    def _fail(self, group: RequestGroup, error: Exception) -> None:
        logger.error("request %s failed", group.request_id, exc_info=error)
        self._end_group(group, "error", f"the request failed: {_describe(error)}")

    def _fail_unsound(self, request: Request, message: str) -> None:
        """End a request for its logits. What made them unsound may be in its blocks."""
        logger.error("request %s failed: %s", request.group.request_id, message)
        self._pool.forget(request.block_ids)
        self._end_group(request.group, "error", message)

    def _fail_step(self, error: Exception, *, was_scheduled: bool) -> None:
        """End every request that took part in a step, and trust nothing in the KV cache.

        Where none could even be scheduled, the first in line goes, lest the next step fail the same way.
        """
        groups = dict.fromkeys(request.group for request in self._scheduler.running)
        if not groups and not was_scheduled:
            groups = dict.fromkeys(request.group for request in self._scheduler.waiting[:1])
        for group in groups:
            self._end_group(group, "error", f"the step failed: {_describe(error)}")
        if self._scheduler.running:
            raise RuntimeError("requests that have ended are still running") from error
        self._pool.forget_all()

    def _end_all(self, reason: str, message: str | None) -> None:
        """Send every caller that waits its last deltas, even where the scheduler is broken."""
        with self._lock:
            self._arrived.clear()
            self._num_arrived = 0
        for group in list(self._groups.values()):
            try:
                self._end_group(group, reason, message)
            except Exception:
                logger.exception("request %s could not be removed", group.request_id)
                for index in group.unfinished:
                    last = RequestDelta(group.request_id, index, finish_reason=reason, error=message)
                    self._send_last(group, last)
                self._settle(group)

    def _end_group(self, group: RequestGroup, reason: str, message: str | None) -> None:
        """End all of a request's completions that have not ended. Text held back is never shown."""
        self._num_held -= len(group.held)
        group.held = []
        for request in list(group.unfinished.values()):
            last = RequestDelta(group.request_id, request.index, finish_reason=reason, error=message)
            self._retire(request, last)
            self._send_last(group, last)
        self._settle(group)

    def _send_last(self, group: RequestGroup, last: RequestDelta) -> None:
        try:
            group.on_delta(last)
        except Exception:
            logger.exception("request %s: its receiver failed", group.request_id)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
