"""A runner without a model, and a tokenizer without a vocabulary, whose answers depend on every token.

The runner keeps a value for each token in the slots of its blocks. As in a real model, the value depends
on everything before the token, and logits on all values read back through the block table: a lost,
misplaced, overwritten or wrongly shared position changes the answer.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np

from ozone.config.schema import CacheConfig, SchedulerConfig
from ozone.engine.collector import OutputCollector
from ozone.engine.engine import Engine
from ozone.engine.runner import ScheduledRequest
from ozone.engine.sampling_table import SamplingTable

VOCAB_SIZE = 64
EMPTY = -1


def value_of(token_id: int, previous: int) -> int:
    """What the stub keeps for a token that follows a token with the value `previous`."""
    return (previous * 6364136223846793005 + token_id * 2654435761 + 1442695040888963407) % (1 << 61)


def logits_of(values: Sequence[int], vocab_size: int = VOCAB_SIZE) -> np.ndarray:
    """What the stub predicts from the values of all positions: noise that depends on each."""
    digest = hashlib.blake2b(np.array(values, dtype=np.int64).tobytes(), digest_size=8).digest()
    return 3 * np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(vocab_size, np.float32)


def logits_after(token_ids: Sequence[int], vocab_size: int = VOCAB_SIZE) -> np.ndarray:
    """What the stub predicts after `token_ids`."""
    values = [0]
    for token_id in token_ids:
        values.append(value_of(token_id, values[-1]))
    return logits_of(values[1:], vocab_size)


class StubRunner:
    """See the module. `before_step` is called with what was scheduled and may raise."""

    def __init__(self, num_blocks=64, block_size=4, vocab_size=VOCAB_SIZE, before_step=None):
        self.num_blocks, self.block_size, self.vocab_size = num_blocks, block_size, vocab_size
        self.slots = np.full(num_blocks * block_size, EMPTY, dtype=np.int64)
        self.before_step = before_step
        self.steps: list[list[tuple[str, int, int, str]]] = []

    def execute(self, scheduled: list[ScheduledRequest], table: SamplingTable | None = None) -> np.ndarray:
        self.steps.append([(s.request.request_id, s.start, s.num_tokens, s.logits) for s in scheduled])
        if self.before_step is not None:
            self.before_step(scheduled)
        rows: dict[int, list[np.ndarray]] = {}
        # In any order: nobody may rely on what another one computes in the same step.
        for place in random.Random(len(self.steps)).sample(range(len(scheduled)), len(scheduled)):
            rows[place] = self._run(scheduled[place])
        flat = [row for place in range(len(scheduled)) for row in rows[place]]
        return np.array(flat, dtype=np.float32).reshape(len(flat), self.vocab_size)

    def _run(self, item: ScheduledRequest) -> list[np.ndarray]:
        request, end = item.request, item.start + item.num_tokens
        assert item.num_tokens > 0
        assert item.start == request.num_computed_tokens
        assert end <= len(request.token_ids)
        slots = self._slots(request.block_ids, end)
        value = int(self.slots[slots[item.start - 1]]) if item.start else 0
        for position in range(item.start, end):
            value = value_of(request.token_ids[position], value)
            self.slots[slots[position]] = value
        values = self.slots[slots]
        first = {"none": end, "last": end - 1, "all": item.start}[item.logits]
        return [logits_of(values[: position + 1], self.vocab_size) for position in range(first, end)]

    def _slots(self, block_ids: list[int], end: int) -> np.ndarray:
        positions = np.arange(end)
        blocks = np.array(block_ids)[positions // self.block_size]
        return blocks * self.block_size + positions % self.block_size


class StubTokenizer:
    """Token t is the letter chr(97 + t % 26)."""

    vocab_size = VOCAB_SIZE

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) % VOCAB_SIZE for character in text]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(self.token_text(token_id) for token_id in ids)

    def token_text(self, token_id: int) -> str:
        return chr(97 + token_id % 26)

    def detokenizer(self, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True):
        return StubDetokenizer(self)


class StubDetokenizer:
    """Keeps every third token back for one step, as a tokenizer does with half a character."""

    def __init__(self, tokenizer: StubTokenizer) -> None:
        self.tokenizer = tokenizer
        self.kept: list[int] = []

    def append(self, token_ids: Sequence[int]) -> str:
        self.kept += token_ids
        return "" if self.kept[-1] % 3 == 0 else self.flush()

    def flush(self) -> str:
        text, self.kept = self.tokenizer.decode(self.kept), []
        return text


def make_engine(
    runner: StubRunner | None = None,
    tokenizer=None,
    *,
    eos_token_ids=(),
    max_model_len=128,
    enable_prefix_caching=True,
    seed=0,
    max_logprobs=20,
    start=True,
    **scheduler,
) -> Engine:
    """An engine over a stub runner; further arguments are fields of SchedulerConfig."""
    engine = Engine(
        runner or StubRunner(),
        tokenizer,
        cache=CacheConfig(enable_prefix_caching=enable_prefix_caching),
        scheduler=SchedulerConfig(**scheduler),
        max_model_len=max_model_len,
        eos_token_ids=eos_token_ids,
        seed=seed,
        max_logprobs=max_logprobs,
    )
    if start:
        engine.start()
    return engine


def submit(engine: Engine, request_id: str, prompt: list[int], params, **how):
    """Add a request; returns its collector."""
    collector = OutputCollector(request_id, None, prompt, params.n)
    engine.add_request(request_id, prompt, params, on_delta=collector.add, **how)
    return collector


def generate(engine: Engine, prompt: list[int], params, request_id: str = "request", **how):
    """Run one request to its end; returns its RequestOutput."""
    collector = submit(engine, request_id, prompt, params, **how)
    assert collector.wait(20), "the request did not end"
    assert collector.error is None, collector.error
    return collector.output()


def greedy_continuation(prompt: Sequence[int], count: int) -> list[int]:
    """What the stub model says to `prompt`, computed without an engine."""
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(int(logits_after(token_ids).argmax()))
    return token_ids[len(prompt) :]
