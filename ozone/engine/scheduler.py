"""Which tokens of which requests the next step computes, and whose blocks make room for whom.

Requests stand in line by `Request.order`: arrival, or priority and then arrival. Who is ahead in line is
served first and loses its blocks last, so the first in line always advances and nobody starves.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections.abc import Sequence
from operator import attrgetter

from ozone.config.schema import SchedulerConfig
from ozone.engine.block_pool import BlockPool, hash_block
from ozone.engine.request import Request
from ozone.engine.runner import ScheduledRequest
from ozone.engine.step_pace import StepPace

# Logits of whole prompts (for prompt_logprobs) are computed in pieces of about this size.
MAX_PROMPT_LOGITS_BYTES = 64 << 20

_in_line = attrgetter("order")


class Scheduler:
    """Continuous batching with chunked prefill over a block pool.

    Attributes:
        running: requests that hold blocks, in line. waiting: those that hold none, in line.
        num_scheduled_tokens: tokens of the step that was scheduled last.
        prefix_cache_queries, prefix_cache_hits: tokens looked up and found at first admission.
    """

    def __init__(self, config: SchedulerConfig, pool: BlockPool, *, vocab_size: int) -> None:
        self.pool = pool
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.num_preemptions = 0
        self.num_scheduled_tokens = 0
        self.prefix_cache_queries = 0
        self.prefix_cache_hits = 0
        self._block_size = pool.block_size
        self._max_num_batched_tokens = config.max_num_batched_tokens
        # With one token for everybody, a step can always advance every decode and one prefill.
        self._max_num_seqs = min(config.max_num_seqs, config.max_num_batched_tokens)
        self._enable_chunked_prefill = config.enable_chunked_prefill
        self._max_prompt_logit_rows = max(16, MAX_PROMPT_LOGITS_BYTES // (4 * vocab_size))

    def add(self, request: Request) -> None:
        insort(self.waiting, request, key=_in_line)

    def remove(self, request: Request) -> None:
        """Forget a request that ended, wherever it stands; its blocks are free for others."""
        if request.is_running:
            self._stop_running(request)
            return
        place = bisect_left(self.waiting, request.order, key=_in_line)
        if place < len(self.waiting) and self.waiting[place] is request:
            del self.waiting[place]

    def schedule(self, pace: StepPace | None = None) -> list[ScheduledRequest]:
        """Choose a step's work: every running request in line, then waiting ones while there is room.

        Each later decode keeps its one token of the budget, so a long prefill delays nobody's stream.
        `pace` bounds the tokens of a step with decodes in it.
        """
        scheduled: list[ScheduledRequest] = []
        budget = self._max_num_batched_tokens
        tokens_wanted = [len(r.token_ids) - r.num_computed_tokens for r in self.running]
        decodes = tokens_wanted.count(1)
        if pace is not None and decodes and self._enable_chunked_prefill:
            budget = max(decodes + 1, pace.most_tokens(budget))
        most = budget
        preemptions = self.num_preemptions
        block_size = self._block_size
        # A copy: the end of the line may go while its beginning is served.
        for request, wanted in zip(self.running.copy(), tokens_wanted, strict=True):
            if wanted == 1:
                decodes -= 1
            if not request.is_running:
                break
            if budget == decodes:
                continue  # Those ahead of it took all that the decodes leave: its prompt goes on later.
            if len(request.token_ids) > len(request.block_ids) * block_size and not self._grow(request):
                break
            if wanted == 1 and not request.wants_prompt_logprobs:
                scheduled.append(ScheduledRequest(request, request.num_computed_tokens, 1, "last"))
                budget -= 1
                continue
            chunk = self._chunk(request, wanted, budget - decodes)
            scheduled.append(chunk)
            budget -= chunk.num_tokens
        if self.num_preemptions > preemptions:
            self.num_scheduled_tokens = most - budget
            return scheduled
        while self.waiting and budget > 0 and len(self.running) < self._max_num_seqs:
            request = self.waiting[0]
            if not self._admit(request, budget):
                break
            wanted = len(request.token_ids) - request.num_computed_tokens
            chunk = self._chunk(request, wanted, budget)
            scheduled.append(chunk)
            budget -= chunk.num_tokens
        self.num_scheduled_tokens = most - budget
        return scheduled

    def complete(self, scheduled: Sequence[ScheduledRequest]) -> None:
        """Record that a step's tokens are in the KV cache, and let full blocks be found there."""
        for item in scheduled:
            request = item.request
            request.num_computed_tokens += item.num_tokens
            full = request.num_computed_tokens // self._block_size
            if full > request.num_registered_blocks and self.pool.enable_prefix_caching:
                self._hash_blocks(request, full)
                for place in range(request.num_registered_blocks, full):
                    self.pool.register(request.block_ids[place], request.block_hashes[place])
                request.num_registered_blocks = full

    def _chunk(self, request: Request, wanted: int, room: int) -> ScheduledRequest:
        start = request.num_computed_tokens
        size = min(wanted, room)
        if request.wants_prompt_logprobs:
            if self._enable_chunked_prefill:
                size = min(size, self._max_prompt_logit_rows)
            return ScheduledRequest(request, start, size, "all")
        return ScheduledRequest(request, start, size, "last" if size == wanted else "none")

    def _grow(self, request: Request) -> bool:
        """Give a running request the blocks that its tokens lack, preempting from the end of the line.

        Returns False when the request itself had to go.
        """
        missing = self._num_blocks(request) - len(request.block_ids)
        while self.pool.num_free < missing:
            last = self.running[-1]
            self._preempt(last)
            if last is request:
                return False
        request.block_ids += self.pool.allocate(missing)
        return True

    def _preempt(self, request: Request) -> None:
        """Take a request's blocks. Its tokens stay; it computes them again when its turn comes."""
        self._stop_running(request)
        request.num_computed_tokens = 0
        if request.prompt_logprobs is not None and request.wants_prompt_logprobs:
            request.prompt_logprobs.truncate(1)
        self.num_preemptions += 1
        insort(self.waiting, request, key=_in_line)

    def _stop_running(self, request: Request) -> None:
        del self.running[bisect_left(self.running, request.order, key=_in_line)]
        request.is_running = False
        self.pool.release(request.block_ids)
        request.block_ids = []

    def _admit(self, request: Request, room: int) -> bool:
        """Let the first in line run if all its tokens find blocks, of which it may share some.

        One block for each running request stays free, lest an admission cause a preemption at once.
        """
        shared = self._shared_blocks(request)
        computed = len(shared) * self._block_size
        wanted = len(request.token_ids) - computed
        if not self._enable_chunked_prefill and room < wanted <= self._max_num_batched_tokens:
            return False
        missing = self._num_blocks(request) - len(shared)
        free = self.pool.num_free - self.pool.num_idle(shared)
        if missing + len(self.running) > free:
            return False
        self.pool.share(shared)
        request.block_ids = shared + self.pool.allocate(missing)
        request.num_computed_tokens = computed
        request.num_registered_blocks = len(shared)
        request.is_running = True
        del self.waiting[0]
        insort(self.running, request, key=_in_line)
        if request.num_cached_tokens is None:
            request.num_cached_tokens = computed
            request.metrics.first_scheduled_time = time.monotonic()
            self.prefix_cache_queries += len(request.token_ids)
            self.prefix_cache_hits += computed
        return True

    def _shared_blocks(self, request: Request) -> list[int]:
        """Blocks that already hold the request's beginning; its last token is always left to compute."""
        if request.wants_prompt_logprobs:
            return []
        most = (len(request.token_ids) - 1) // self._block_size
        if self.pool.enable_prefix_caching:
            self._hash_blocks(request, most)
            return self.pool.find(request.block_hashes[:most])
        first = request.group.unfinished.get(0)
        if first is None or not first.is_running:
            return []
        computed = min(first.num_computed_tokens, request.num_prompt_tokens) // self._block_size
        return first.block_ids[: min(most, computed)]

    def _hash_blocks(self, request: Request, count: int) -> None:
        """Know the hashes of the first `count` blocks. Completions share those of their prompt."""
        hashes, group = request.block_hashes, request.group
        of_prompt = min(count, request.num_prompt_tokens // self._block_size)
        if len(hashes) < of_prompt:
            self._extend_hashes(group.prompt_hashes, group.root_hash, request.token_ids, of_prompt)
            hashes += group.prompt_hashes[len(hashes) : of_prompt]
        self._extend_hashes(hashes, group.root_hash, request.token_ids, count)

    def _extend_hashes(self, hashes: list[bytes], root: bytes, token_ids: list[int], count: int) -> None:
        size = self._block_size
        for start in range(len(hashes) * size, count * size, size):
            parent = hashes[-1] if hashes else root
            hashes.append(hash_block(parent, token_ids[start : start + size]))

    def _num_blocks(self, request: Request) -> int:
        return -(-len(request.token_ids) // self._block_size)
