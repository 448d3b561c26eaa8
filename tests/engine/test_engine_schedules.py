"""Whatever the arrivals, aborts, priorities, pool and chunk sizes, a request is answered as if alone."""

from __future__ import annotations

import dataclasses
import os
import threading
from dataclasses import dataclass, field

import pytest
from engine_stubs import StubRunner, StubTokenizer, generate, make_engine, submit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ozone.engine.collector import OutputCollector
from ozone.engine.engine import Engine
from ozone.engine.sampling_params import SamplingParams
from ozone.errors import RequestError

MOST_TOKENS = 40
SHARED = [[1] * MOST_TOKENS, list(range(MOST_TOKENS)), [5, 6] * MOST_TOKENS]


@dataclass
class Arrival:
    prompt: list[int]
    params: dict
    step: int
    priority: int
    abort_after: int | None
    collector: OutputCollector | None = field(default=None, repr=False)


@st.composite
def arrivals(draw) -> Arrival:
    shared = draw(st.sampled_from(SHARED))
    prompt = shared[: draw(st.integers(0, 16))] + draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    params = {
        "max_tokens": draw(st.sampled_from([20, 16, 12, 6, 1])),
        "temperature": draw(st.sampled_from([0.0, 0.0, 1.0])),
        "seed": draw(st.integers(0, 3)),
        "n": draw(st.sampled_from([1, 1, 1, 2, 3])),
        "top_k": draw(st.sampled_from([0, 5])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.5])),
        "logprobs": draw(st.sampled_from([None, None, 0, 2])),
        "prompt_logprobs": draw(st.sampled_from([None, None, 0, 1])),
        "stop": draw(st.sampled_from([None, None, None, ["ab"], ["bc", "xyz", "q"]])),
        "stop_token_ids": draw(st.sampled_from([None, None, [7, 9]])),
        "min_tokens": draw(st.sampled_from([0, 0, 1])),
    }
    abort_after = draw(st.sampled_from([None, None, None, 0, 1, 4]))
    return Arrival(
        prompt, params, draw(st.sampled_from([0, 0, 1, 2, 3, 5, 9])), draw(st.integers(0, 2)), abort_after
    )


@st.composite
def configurations(draw) -> dict:
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    just_enough = -(-MOST_TOKENS // block_size)
    return {
        "block_size": block_size,
        "num_blocks": just_enough + draw(st.sampled_from([0, 0, 1, 3, just_enough, -just_enough // 2])),
        "max_num_batched_tokens": draw(st.sampled_from([64, 16, 8, 5, 2, 1])),
        "max_num_seqs": draw(st.sampled_from([16, 8, 4, 1])),
        "most_prompt_logit_rows": draw(st.sampled_from([16, 4, 2])),
        "enable_chunked_prefill": draw(st.booleans()),
        "enable_prefix_caching": draw(st.booleans()),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "priority"])),
    }


@st.composite
def crowded_prompts(draw) -> tuple[dict, list[Arrival]]:
    """Steps with room for a part of one prompt, and prompts that overtake each other while they run."""
    configuration = draw(configurations()) | {
        "num_blocks": 8 * MOST_TOKENS,
        "max_num_batched_tokens": draw(st.sampled_from([3, 5, 8])),
        "max_num_seqs": 8,
        "most_prompt_logit_rows": 2,
        "enable_chunked_prefill": True,
        "scheduling_policy": "priority",
    }
    requests = []
    for _ in range(draw(st.integers(2, 6))):
        prompt = draw(st.sampled_from(SHARED))[: draw(st.integers(6, 30))]
        params = {"temperature": 0.0, "max_tokens": 3, "prompt_logprobs": draw(st.sampled_from([None, 0]))}
        requests.append(Arrival(prompt, params, draw(st.integers(0, 6)), draw(st.integers(0, 3)), None))
    return configuration, requests


class Schedule:
    """Feeds arrivals and aborts to an engine from within its own steps, so that a schedule repeats."""

    def __init__(self, pending: list[Arrival]) -> None:
        self.pending = sorted(pending, key=lambda arrival: arrival.step)
        self.num_steps = 0
        self.refused: list[Arrival] = []
        self.aborts: dict[int, list[str]] = {}
        self.submitted: list[Arrival] = []
        self.engine: Engine | None = None
        self.lock = threading.Lock()

    def before_step(self, scheduled) -> None:
        self.num_steps += 1
        with self.lock:
            while self.pending and self.pending[0].step <= self.num_steps:
                self.submit_next()
        for request_id in self.aborts.pop(self.num_steps, ()):
            self.engine.abort(request_id)

    def submit_next(self) -> None:
        arrival = self.pending.pop(0)
        request_id = f"request-{len(self.submitted)}-{len(self.refused)}"
        try:
            arrival.collector = submit(
                self.engine,
                request_id,
                arrival.prompt,
                SamplingParams(**arrival.params),
                priority=arrival.priority,
            )
        except RequestError:
            self.refused.append(arrival)
            return
        self.submitted.append(arrival)
        if arrival.abort_after is not None:
            self.aborts.setdefault(self.num_steps + 1 + arrival.abort_after, []).append(request_id)

    def run(self, engine: Engine) -> None:
        self.engine = engine
        while True:
            for arrival in list(self.submitted):
                assert arrival.collector.wait(30), f"{arrival} did not end"
            with self.lock:
                if not self.pending:
                    return
                self.submit_next()


def check_answers_equal_those_alone(configuration: dict, requests: list[Arrival]) -> None:
    if configuration["scheduling_policy"] != "priority":
        requests = [dataclasses.replace(request, priority=0) for request in requests]
    schedule = Schedule(requests)
    runner = StubRunner(
        configuration.pop("num_blocks"), configuration.pop("block_size"), before_step=schedule.before_step
    )
    most_rows = configuration.pop("most_prompt_logit_rows")
    engine = make_engine(runner, StubTokenizer(), max_model_len=MOST_TOKENS, **configuration)
    engine._scheduler._max_prompt_logit_rows = most_rows
    alone = make_engine(
        StubRunner(4 * MOST_TOKENS, 1),
        StubTokenizer(),
        max_model_len=MOST_TOKENS,
        enable_prefix_caching=False,
        max_num_batched_tokens=4096,
    )
    try:
        schedule.run(engine)
        # The last one may still wait in the queue of arrivals for a step.
        for arrival in schedule.submitted:
            assert arrival.collector.wait(30)
        for arrival in schedule.submitted:
            compare(arrival, generate(alone, arrival.prompt, SamplingParams(**arrival.params)))
        for arrival in schedule.refused:
            check_refusal(arrival, runner, configuration)
        for step in runner.steps:
            assert sum(num_tokens for _, _, num_tokens, _ in step) <= configuration["max_num_batched_tokens"]
            assert len(step) <= configuration["max_num_seqs"]
        stats = engine.stats()
        assert engine.failure is None
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_blocks == stats.num_blocks
    finally:
        engine.shutdown()
        alone.shutdown()


def compare(arrival: Arrival, expected) -> None:
    output = arrival.collector.output()
    assert arrival.collector.error is None
    for got, want in zip(output.outputs, expected.outputs, strict=True):
        if got.finish_reason == "abort":
            assert arrival.abort_after is not None
            assert got.token_ids == want.token_ids[: len(got.token_ids)]
            assert want.text.startswith(got.text)
        else:
            assert got == want
    if output.prompt_logprobs is not None or all(o.finish_reason != "abort" for o in output.outputs):
        assert output.prompt_logprobs == expected.prompt_logprobs


def check_refusal(arrival: Arrival, runner: StubRunner, configuration: dict) -> None:
    total = min(len(arrival.prompt) + arrival.params["max_tokens"], MOST_TOKENS)
    assert total > runner.num_blocks * runner.block_size or (
        not configuration["enable_chunked_prefill"]
        and len(arrival.prompt) > configuration["max_num_batched_tokens"]
    )


relaxed = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


@settings(max_examples=int(os.environ.get("OZONE_TEST_EXAMPLES", "200")), **relaxed)
@given(configurations(), st.lists(arrivals(), min_size=5, max_size=10))
def test_any_schedule_gives_each_request_the_answer_it_gets_alone(configuration, requests):
    check_answers_equal_those_alone(configuration, requests)


@settings(max_examples=60, **relaxed)
@given(crowded_prompts())
def test_prompts_that_leave_no_room_for_others_get_the_answers_they_get_alone(crowd):
    check_answers_equal_those_alone(*crowd)


@pytest.mark.slow
@settings(max_examples=1000, **relaxed)
@given(configurations(), st.lists(arrivals(), min_size=2, max_size=30))
def test_any_long_schedule_gives_each_request_the_answer_it_gets_alone(configuration, requests):
    check_answers_equal_those_alone(configuration, requests)
