"""Who is served in which step: budgets, lines, chunks, shared blocks, preemption."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from engine_stubs import StubRunner, generate, greedy_continuation, logits_after, submit

from ozone.engine.logprobs import token_logprobs
from ozone.engine.sampling_params import SamplingParams


def greedy(max_tokens: int = 8, **kwargs) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, **kwargs)


class Steps:
    """Submits requests before the engine starts, runs them all, and looks at each step."""

    def __init__(self, engines, **kwargs) -> None:
        self.runner = StubRunner(kwargs.pop("num_blocks", 64), kwargs.pop("block_size", 4))
        self.engine = engines(self.runner, start=False, **kwargs)
        self.collectors = {}

    def add(self, name: str, prompt: list[int], params: SamplingParams, priority: int = 0) -> None:
        self.collectors[name] = submit(self.engine, name, prompt, params, priority=priority)

    def run(self) -> list[dict[str, int]]:
        """Returns the number of tokens computed for each request, by step."""
        self.engine.start()
        assert all(collector.wait(20) for collector in list(self.collectors.values()))
        assert self.engine.drain(20)
        return [{name: count for name, _, count, _ in step} for step in self.runner.steps]

    def tokens(self, name: str, index: int = 0) -> list[int]:
        return self.collectors[name].output().outputs[index].token_ids


def prompt_of(size: int, first: int = 0) -> list[int]:
    return [first, *range(1, size)]


def test_a_long_prompt_is_computed_in_chunks_beside_decodes(engines):
    steps = Steps(engines, max_num_batched_tokens=8)
    steps.add("short", prompt_of(3), greedy(6))
    steps.add("long", prompt_of(17, first=9), greedy(2))
    assert steps.run()[:5] == [
        {"short": 3, "long": 5},
        {"short": 1, "long": 7},
        {"short": 1, "long": 5},
        {"short": 1, "long": 1},
        {"short": 1},
    ]


def test_decodes_behind_a_long_prompt_in_line_keep_their_token(engines):
    steps = Steps(engines, max_num_batched_tokens=4, scheduling_policy="priority")
    late = threading.Event()

    def before_step(scheduled):
        if len(steps.runner.steps) == 3 and not late.is_set():
            late.set()
            steps.add("urgent", prompt_of(9, first=7), greedy(1), priority=-1)

    steps.runner.before_step = before_step
    steps.add("a", [1], greedy(9))
    steps.add("b", [2], greedy(9))
    counts = steps.run()
    assert counts[3] == {"urgent": 2, "a": 1, "b": 1} or counts[3] == {"a": 1, "b": 1, "urgent": 2}
    assert [len(step) for step in counts[3:7]] == [3, 3, 3, 3]


def test_no_more_than_max_num_seqs_run_and_the_first_come_first(engines):
    steps = Steps(engines, max_num_seqs=2)
    for name in "abcd":
        steps.add(name, [ord(name) % 60], greedy(3))
    assert [set(step) for step in steps.run()] == [{"a", "b"}] * 3 + [{"c", "d"}] * 3


def test_priority_goes_before_arrival(engines):
    steps = Steps(engines, max_num_seqs=1, scheduling_policy="priority")
    for name, priority in (("a", 5), ("b", 0), ("c", -3)):
        steps.add(name, [1], greedy(1), priority=priority)
    assert [next(iter(step)) for step in steps.run()] == list("cba")


def test_without_chunked_prefill_prompts_are_computed_whole(engines):
    steps = Steps(engines, max_num_batched_tokens=16, enable_chunked_prefill=False)
    for name, size in (("a", 9), ("b", 9), ("c", 4), ("d", 16)):
        steps.add(name, prompt_of(size, first=ord(name) % 60), greedy(3))
    counts = steps.run()
    assert [next(step[name] for step in counts if name in step) for name in "abcd"] == [9, 9, 4, 16]
    # c does not overtake b, and d waits until a whole step is free.
    assert [set(step) for step in counts] == [
        {"a"},
        {"a", "b", "c"},
        {"a", "b", "c"},
        {"b", "c"},
        {"d"},
        {"d"},
        {"d"},
    ]


def test_prompts_that_report_logprobs_are_cut_to_bound_the_logits(engines, monkeypatch):
    monkeypatch.setattr("ozone.engine.scheduler.MAX_PROMPT_LOGITS_BYTES", 20 * 4 * 64)
    steps = Steps(engines, max_num_batched_tokens=64)
    steps.add("a", prompt_of(50), greedy(1, prompt_logprobs=0))
    assert steps.run() == [{"a": 20}, {"a": 20}, {"a": 10}]
    assert len(steps.collectors["a"].output().prompt_logprobs) == 50


def test_a_running_prompt_that_finds_no_room_sits_out(engines, monkeypatch):
    monkeypatch.setattr("ozone.engine.scheduler.MAX_PROMPT_LOGITS_BYTES", 16 * 4 * 64)
    steps = Steps(engines, max_num_batched_tokens=20, scheduling_policy="priority")

    def before_step(scheduled):
        if len(steps.runner.steps) == 1:
            steps.add("urgent", prompt_of(40, first=7), greedy(1), priority=-1)

    steps.runner.before_step = before_step
    steps.add("slow", prompt_of(40), greedy(3, prompt_logprobs=0))
    counts = steps.run()
    assert counts[:4] == [{"slow": 16}, {"slow": 16, "urgent": 4}, {"urgent": 20}, {"urgent": 16, "slow": 4}]
    assert steps.tokens("slow") == greedy_continuation(prompt_of(40), 3)


def test_the_last_to_arrive_is_preempted_and_loses_nothing(engines):
    steps = Steps(engines, num_blocks=24, block_size=1)
    for name in "abc":
        steps.add(name, prompt_of(3, first=ord(name) % 60), greedy(16))
    counts = steps.run()
    assert steps.engine.stats().num_preemptions > 0
    for name in "abc":
        assert steps.tokens(name) == greedy_continuation(prompt_of(3, first=ord(name) % 60), 16)
    assert all("a" in step for step in counts[:16])
    finished = {name: max(i for i, step in enumerate(counts) if name in step) for name in "abc"}
    assert finished["a"] < finished["b"] < finished["c"]


def test_the_lowest_priority_is_preempted_though_it_came_first(engines):
    steps = Steps(engines, num_blocks=24, block_size=1, scheduling_policy="priority")
    steps.add("low", prompt_of(3), greedy(16), priority=9)
    steps.add("high", prompt_of(3, first=9), greedy(16), priority=1)
    counts = steps.run()
    assert steps.engine.stats().num_preemptions > 0
    assert all("high" in step for step in counts[:16])
    assert steps.tokens("low") == greedy_continuation(prompt_of(3), 16)


def test_prompt_logprobs_survive_a_preemption_within_the_prompt(engines):
    steps = Steps(engines, num_blocks=30, block_size=1, max_num_batched_tokens=2)
    steps.add("a", [5], greedy(28))
    prompt = prompt_of(20)
    steps.add("b", prompt, greedy(2, prompt_logprobs=1))
    steps.run()
    assert steps.engine.stats().num_preemptions > 0
    starts = [start for step in steps.runner.steps for name, start, *_ in step if name == "b"]
    assert starts.count(0) > 1
    found = steps.collectors["b"].output().prompt_logprobs
    expected = [token_logprobs(logits_after(prompt[:i]), prompt[i], 1) for i in range(1, 20)]
    assert found[0] is None
    for one, other in zip(found[1:], expected, strict=True):
        assert [(token, entry.rank) for token, entry in one.items()] == [
            (token, entry.rank) for token, entry in other.items()
        ]
        logprobs = [entry.logprob for entry in other.values()]
        assert [entry.logprob for entry in one.values()] == pytest.approx(logprobs, abs=1e-6)


def test_a_preempted_completion_shares_the_prompt_and_not_the_firsts_output(engines):
    steps = Steps(engines, num_blocks=40, block_size=1, enable_prefix_caching=False)
    steps.add("c", prompt_of(10, first=9), greedy(12))
    steps.add("g", prompt_of(4), SamplingParams(n=2, seed=1, max_tokens=26))
    steps.run()
    assert steps.engine.stats().num_preemptions > 0
    starts = [start for step in steps.runner.steps for name, start, *_ in step if name == "g/1"]
    resumed = {start for before, start in pairwise(starts) if start < before}
    assert starts[0] == 3
    # All four tokens of the prompt while the first runs, none once it has ended.
    assert resumed == {0, 4}
    whole = engines(enable_prefix_caching=False)
    alone = generate(whole, prompt_of(4), SamplingParams(n=2, seed=1, max_tokens=26))
    assert [steps.tokens("g", 0), steps.tokens("g", 1)] == [o.token_ids for o in alone.outputs]


def test_a_preempted_request_finds_its_own_blocks_again(engines):
    steps = Steps(engines, num_blocks=16, block_size=2)
    steps.add("a", prompt_of(4), greedy(14))
    steps.add("b", prompt_of(4, first=9), greedy(14))
    steps.run()
    assert steps.engine.stats().num_preemptions == 1
    starts = [start for step in steps.runner.steps for name, start, *_ in step if name == "b"]
    resumed = [start for before, start in pairwise(starts) if start < before]
    assert len(resumed) == 1
    assert resumed[0] > 0
    assert steps.tokens("b") == greedy_continuation(prompt_of(4, first=9), 14)


def test_an_admission_leaves_a_block_for_each_that_runs(engines):
    steps = Steps(engines, num_blocks=10, block_size=2)
    steps.add("a", prompt_of(8), greedy(4))
    steps.add("b", prompt_of(12, first=9), greedy(4))
    counts = steps.run()
    assert "b" not in counts[0]
    assert steps.engine.stats().num_preemptions == 0


@pytest.mark.parametrize("max_num_batched_tokens", [1, 3])
def test_more_sequences_than_tokens_in_a_step_all_advance(engines, max_num_batched_tokens):
    steps = Steps(engines, max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=8)
    for name in "abcde":
        steps.add(name, prompt_of(4, first=ord(name) % 60), greedy(5))
    counts = steps.run()
    assert max(sum(step.values()) for step in counts) == max_num_batched_tokens
    for name in "abcde":
        assert steps.tokens(name) == greedy_continuation(prompt_of(4, first=ord(name) % 60), 5)
