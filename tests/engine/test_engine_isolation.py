"""One request's trouble is its own: errors, aborts, limits, and the end of the engine itself."""

from __future__ import annotations

import logging
import random
import threading
import time

import numpy as np
import pytest
from engine_stubs import StubRunner, StubTokenizer, generate, greedy_continuation, make_engine, submit

from ozone.engine.collector import OutputCollector
from ozone.engine.sampling_params import SamplingParams
from ozone.errors import QueueFullError, RequestError

PROMPT = [1, 2, 3]


def greedy(max_tokens: int | None = 8, **kwargs) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, **kwargs)


class Gate:
    """A `before_step` that holds the engine's steps until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, scheduled) -> None:
        self.reached.set()
        assert self.open.wait(20)


def finish(*collectors: OutputCollector) -> list[str | None]:
    """Wait for the collectors; returns the finish reasons of their first completions."""
    assert all(collector.wait(20) for collector in collectors)
    return [collector.output().outputs[0].finish_reason for collector in collectors]


@pytest.mark.parametrize("fails_at", [1, 3, 8])
def test_a_receiver_that_raises_ends_its_own_request_only(engines, fails_at, caplog):
    gate = Gate()
    engine = engines(StubRunner(before_step=gate))
    received = []

    def on_delta(delta):
        received.append(delta)
        if len(received) == fails_at:
            raise ValueError("cannot take it")

    engine.add_request("bad", PROMPT, greedy(), on_delta=on_delta)
    good = submit(engine, "good", PROMPT, greedy())
    gate.open.set()
    assert finish(good) == ["length"]
    assert good.output().outputs[0].token_ids == greedy_continuation(PROMPT, 8)
    assert engine.drain(10)
    assert len(received) == (fails_at if fails_at == 8 else fails_at + 1)
    if fails_at < 8:
        assert (received[-1].finish_reason, received[-1].error) == (
            "error",
            "the request failed: ValueError: cannot take it",
        )
    assert "cannot take it" in caplog.text


def test_nothing_follows_the_error_of_a_request_with_several_completions(engines):
    received = []

    def on_delta(delta):
        received.append(delta)
        if len(received) == 5:
            raise ValueError("cannot take it")

    engine = engines()
    engine.add_request("bad", PROMPT, greedy(n=3), on_delta=on_delta)
    assert engine.drain(10)
    assert [d.finish_reason for d in received] == [None] * 5 + ["error"] * 3
    assert sorted(d.index for d in received[5:]) == [0, 1, 2]


def test_a_detokenizer_that_raises_ends_its_own_request_only(engines):
    class Detokenizer:
        def append(self, token_ids):
            raise KeyError("no such token")

    class Tokenizer(StubTokenizer):
        def detokenizer(self, prompt_token_ids, skip_special_tokens=True):
            if prompt_token_ids[0] == 9:
                return Detokenizer()
            return super().detokenizer(prompt_token_ids, skip_special_tokens)

    gate = Gate()
    engine = engines(StubRunner(before_step=gate), Tokenizer())
    bad = submit(engine, "bad", [9], greedy(n=2))
    good = submit(engine, "good", PROMPT, greedy())
    gate.open.set()
    assert finish(bad, good) == ["error", "length"]
    assert [o.finish_reason for o in bad.output().outputs] == ["error", "error"]
    assert "KeyError" in bad.error
    assert good.error is None


@pytest.mark.parametrize("params", [greedy(), SamplingParams(seed=0), greedy(prompt_logprobs=0)])
def test_logits_that_are_not_finite_end_their_request_only_and_are_not_cached(engines, params):
    class Runner(StubRunner):
        poisoned = True

        def _run(self, item):
            rows = super()._run(item)
            if self.poisoned and item.request.request_id == "bad":
                rows = [np.full_like(row, np.nan) for row in rows]
            return rows

    gate = Gate()
    runner = Runner(before_step=gate)
    engine = engines(runner)
    bad = submit(engine, "bad", list(range(12)), params)
    good = submit(engine, "good", PROMPT, params)
    gate.open.set()
    assert finish(bad, good) == ["error", "length"]
    assert "not finite" in bad.error
    runner.poisoned = False
    again = generate(engine, list(range(12)), greedy())
    assert again.num_cached_tokens == 0
    assert again.outputs[0].token_ids == greedy_continuation(list(range(12)), 8)


def test_a_failing_step_ends_what_ran_and_the_engine_goes_on_with_a_clean_cache(engines, caplog):
    failing = threading.Event()

    def before_step(scheduled):
        gate(scheduled)
        if failing.is_set():
            failing.clear()
            runner.slots[:] = 12345
            raise RuntimeError("out of luck")

    gate = Gate()
    runner = StubRunner(before_step=before_step)
    engine = engines(runner, max_num_seqs=2)
    gate.open.set()
    generate(engine, list(range(12)), greedy())
    gate.open.clear()
    gate.reached.clear()
    failing.set()
    running = [submit(engine, f"running-{i}", list(range(12)), greedy(n=2)) for i in range(2)]
    waiting = [submit(engine, f"waiting-{i}", list(range(12)), greedy()) for i in range(3)]
    gate.open.set()
    assert finish(*running, *waiting) == ["error"] * 2 + ["length"] * 3
    assert running[0].error == "the step failed: RuntimeError: out of luck"
    expected = greedy_continuation(list(range(12)), 8)
    assert all(w.output().outputs[0].token_ids == expected for w in waiting)
    assert waiting[0].output().num_cached_tokens == 0
    assert "Traceback" in caplog.text


def test_a_runner_that_returns_too_little_fails_the_step(engines):
    class Runner(StubRunner):
        def execute(self, scheduled, table=None):
            return super().execute(scheduled, table)[:-1]

    engine = engines(Runner())
    assert finish(submit(engine, "r", PROMPT, greedy())) == ["error"]
    assert engine.failure is None


def test_a_request_that_cannot_be_scheduled_ends_and_the_engine_goes_on(engines):
    engine = engines(start=False)
    schedule = engine._scheduler.schedule

    def stumble(pace):
        if engine._scheduler.waiting and engine._scheduler.waiting[0].request_id == "bad":
            raise KeyError("no such block")
        return schedule(pace)

    engine._scheduler.schedule = stumble
    collectors = [submit(engine, name, PROMPT, greedy()) for name in ("first", "bad", "last")]
    engine._scheduler._max_num_seqs = 1
    engine.start()
    # What runs while scheduling fails ends too, since nobody knows which request is to blame.
    assert finish(*collectors) == ["error", "error", "length"]
    assert [collector.error for collector in collectors[:2]] == [
        "the step failed: KeyError: 'no such block'"
    ] * 2
    assert generate(engine, PROMPT, greedy()).outputs[0].finish_reason == "length"


def test_requests_none_of_which_can_be_scheduled_end_one_by_one(engines):
    engine = engines(start=False)
    schedule, engine._scheduler.schedule = engine._scheduler.schedule, lambda pace: []
    collectors = [submit(engine, str(number), PROMPT, greedy(n=2)) for number in range(3)]
    engine.start()
    assert finish(*collectors) == ["error"] * 3
    assert all("none could be scheduled" in collector.error for collector in collectors)
    engine._scheduler.schedule = schedule
    assert generate(engine, PROMPT, greedy()).outputs[0].finish_reason == "length"


def test_every_caller_hears_of_the_end_though_the_scheduler_is_broken():
    gate = Gate()
    engine = make_engine(StubRunner(before_step=gate), max_num_seqs=2)
    collectors = [submit(engine, str(number), PROMPT, greedy(n=3)) for number in range(4)]
    assert gate.reached.wait(10)

    def remove(request):
        raise KeyError("lost my place")

    engine._scheduler.remove = remove
    engine.abort("3")
    gate.open.set()
    assert [{o.finish_reason for o in c.output().outputs} for c in collectors if c.wait(20)] == [
        {"error"}
    ] * 4
    assert isinstance(engine.failure, KeyError)
    assert engine.drain(1)
    engine.shutdown()


def test_requests_that_will_not_leave_end_the_engine_and_not_in_a_loop():
    gate = Gate()
    engine = make_engine(StubRunner(before_step=gate))
    collector = submit(engine, "r", PROMPT, greedy())
    assert gate.reached.wait(10)
    engine._scheduler.remove = lambda request: None
    engine._scheduler.complete = lambda scheduled: 1 / 0
    gate.open.set()
    assert finish(collector) == ["error"]
    engine._thread.join(10)
    assert "still running" in str(engine.failure)


def test_a_bug_in_the_loop_is_reported_to_everybody(caplog):
    def add(request):
        raise RuntimeError("no place in line")

    engine = make_engine(start=False)
    engine._scheduler.add = add
    collector = submit(engine, "r", PROMPT, greedy())
    with caplog.at_level(logging.CRITICAL):
        engine.start()
        assert finish(collector) == ["error"]
    assert isinstance(engine.failure, RuntimeError)
    with pytest.raises(RequestError, match="the engine has failed") as error:
        submit(engine, "s", PROMPT, greedy())
    assert error.value.status == 503
    assert engine.drain(1)
    engine.shutdown()


def test_abort_ends_a_request_and_frees_its_blocks_before_the_last_delta(engines):
    free_at_the_end = []
    engine = engines(StubRunner(num_blocks=8))
    collector = OutputCollector("r", None, PROMPT)

    def on_delta(delta):
        if len(delta.token_ids) and delta.token_ids == tokens[2:3]:
            engine.abort("r")
        if delta.finish_reason:
            free_at_the_end.append(engine.stats().num_free_blocks)
        collector.add(delta)

    tokens = greedy_continuation(PROMPT, 20)
    engine.add_request("r", PROMPT, greedy(20), on_delta=on_delta)
    assert finish(collector) == ["abort"]
    assert free_at_the_end == [8]
    output = collector.output().outputs[0].token_ids
    assert 3 <= len(output) < 20
    assert output == tokens[: len(output)]
    engine.abort("r")
    engine.abort("never there")
    assert generate(engine, PROMPT, greedy(), "r").outputs[0].finish_reason == "length"


def test_abort_ends_waiting_requests_and_all_completions(engines):
    gate = Gate()
    engine = engines(StubRunner(before_step=gate), max_num_seqs=1)
    running, many, waiting = (
        submit(engine, name, PROMPT, greedy(n=n)) for name, n in (("a", 1), ("b", 3), ("c", 1))
    )
    assert gate.reached.wait(10)
    assert engine.stats().num_waiting + engine.stats().num_running == 5
    for name in ("a", "b"):
        engine.abort(name)
        engine.abort(name)
    gate.open.set()
    assert finish(running, many, waiting) == ["abort", "abort", "length"]
    assert [o.finish_reason for o in many.output().outputs] == ["abort"] * 3


def test_aborting_shows_no_text_that_was_held_back(engines):
    text = StubTokenizer().decode(greedy_continuation(PROMPT, 8))
    engine = engines(tokenizer=StubTokenizer())
    shown, tokens = [], []
    ended = threading.Event()

    def on_delta(delta):
        shown.append(delta.text)
        tokens.extend(delta.token_ids)
        if len(tokens) == 6:
            engine.abort("r")
        if delta.finish_reason == "abort":
            ended.set()

    engine.add_request("r", PROMPT, greedy(8, stop=[text + "!"]), on_delta=on_delta)
    assert ended.wait(10)
    assert tokens == greedy_continuation(PROMPT, len(tokens))
    assert set(shown) == {""}


def test_aborts_from_many_threads_leave_every_other_answer_right(engines):
    engine = engines(StubRunner(num_blocks=60), max_num_seqs=6, max_num_batched_tokens=32)
    expected = {start: greedy_continuation([start, 1], 12) for start in range(10)}
    problems = []

    def client(seed):
        chooser = random.Random(seed)
        for i in range(12):
            request_id, start = f"{seed}-{i}", chooser.randrange(10)
            aborts = chooser.random() < 0.4
            collector = submit(engine, request_id, [start, 1], greedy(12))
            if aborts:
                time.sleep(chooser.random() * 0.003)
                engine.abort(request_id)
            if not collector.wait(20):
                problems.append(f"{request_id} did not end")
                continue
            output = collector.output().outputs[0]
            whole = output.finish_reason == "length" and len(output.token_ids) == 12
            if output.token_ids != expected[start][: len(output.token_ids)] or not (whole or aborts):
                problems.append((request_id, output))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_the_queue_of_waiting_requests_is_bounded(engines):
    gate = Gate()
    engine = engines(StubRunner(before_step=gate), max_num_seqs=1, max_waiting_requests=3)
    first = submit(engine, "first", PROMPT, greedy())
    assert gate.reached.wait(10)
    waiting = [submit(engine, "w", PROMPT, greedy()), submit(engine, "x", PROMPT, greedy(n=2))]
    with pytest.raises(QueueFullError) as error:
        submit(engine, "y", PROMPT, greedy())
    assert error.value.status == 429
    gate.open.set()
    finish(first, *waiting)
    assert finish(submit(engine, "y", PROMPT, greedy())) == ["length"]


def test_drain_takes_no_new_requests_and_waits_for_the_old(engines):
    gate = Gate()
    engine = engines(StubRunner(before_step=gate))
    collector = submit(engine, "r", PROMPT, greedy())
    assert gate.reached.wait(10)
    assert not engine.drain(0.01)
    with pytest.raises(RequestError) as error:
        submit(engine, "s", PROMPT, greedy())
    assert error.value.status == 503
    gate.open.set()
    assert engine.drain(10)
    assert collector.finished
    assert finish(collector) == ["length"]


@pytest.mark.parametrize("started", [True, False])
def test_shutdown_aborts_what_is_left(started):
    engine = make_engine(StubRunner(before_step=lambda _: time.sleep(0.001)), start=started)
    collectors = [submit(engine, str(i), PROMPT, greedy(100, n=2)) for i in range(3)]
    engine.shutdown()
    assert finish(*collectors) == ["abort"] * 3
    assert engine.stats().num_free_blocks == 64
    with pytest.raises(RequestError, match="shut down"):
        submit(engine, "late", PROMPT, greedy())
    engine.shutdown()


def test_an_idle_engine_uses_no_processor_time(engines):
    generate(engines(), PROMPT, greedy())
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


REFUSALS = {
    "empty prompt": ([], {}, "prompt", "empty"),
    "prompt of text": (["a"], {}, "prompt", "integer"),
    "token id too large": ([64], {}, "prompt", "token id 64; the model's are 0 to 63"),
    "token id negative": ([-1], {}, "prompt", "token id -1"),
    "token id absurd": ([2**70], {}, "prompt", "integer"),
    "prompt fills the context": ([1] * 40, {}, "prompt", "max_model_len"),
    "prompt larger than a step": ([1] * 25, {}, "prompt", "max_num_batched_tokens"),
    "more than the cache holds": ([1] * 20, {"max_tokens": 20}, "max_tokens", "KV cache holds 32"),
    "stop token unknown": ([1], {"stop_token_ids": [99]}, "stop_token_ids", "99"),
    "bias of unknown token": ([1], {"logit_bias": {64: 1}}, "logit_bias", "64"),
    "allowed token unknown": ([1], {"allowed_token_ids": [1, 64]}, "allowed_token_ids", "64"),
    "nothing left to choose": (
        [1],
        {"allowed_token_ids": [5], "stop_token_ids": [5], "min_tokens": 1},
        "allowed_token_ids",
        "min_tokens",
    ),
    "too many logprobs": ([1], {"logprobs": 6}, "logprobs", "max_logprobs"),
    "all prompt logprobs": ([1], {"prompt_logprobs": -1}, "prompt_logprobs", "asks for 64"),
    "stop without a tokenizer": ([1], {"stop": "x"}, "stop", "tokenizer"),
    "bad words without a tokenizer": ([1], {"bad_words": ["x"]}, "bad_words", "tokenizer"),
    "more completions than may wait": ([1], {"n": 2000}, "n", "at most 1024"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_can_never_be_served_is_refused(engines, case):
    prompt, params, param, words = REFUSALS[case]
    engine = engines(
        StubRunner(num_blocks=8, block_size=4),
        max_model_len=40,
        max_logprobs=5,
        max_num_batched_tokens=24,
        enable_chunked_prefill=False,
    )
    with pytest.raises(RequestError, match=words) as error:
        submit(engine, "r", prompt, SamplingParams(**params))
    assert error.value.param == param
    assert error.value.status == 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"bad_words": ["A", "E"]}, "bad_words"), ({"bad_words": ["A"], "min_tokens": 1}, "min_tokens")],
)
def test_allowed_tokens_of_which_none_is_left_are_refused(engines, more, words):
    fields = {"allowed_token_ids": [1, 5], "stop_token_ids": [5]}
    engine = engines(tokenizer=StubTokenizer())
    with pytest.raises(RequestError, match=words) as error:
        submit(engine, "r", PROMPT, greedy(**fields, **more))
    assert error.value.param == "allowed_token_ids"
    assert finish(submit(engine, "r", PROMPT, greedy(**fields, bad_words=["A"]))) == ["stop"]


@pytest.mark.parametrize("salt", ["", 5, b"a"])
def test_a_salt_that_is_no_text_is_refused(engines, salt):
    with pytest.raises(RequestError, match="cache_salt must be a string") as error:
        submit(engines(), "r", PROMPT, greedy(), cache_salt=salt)
    assert error.value.param == "cache_salt"


def test_a_priority_without_its_policy_is_refused_and_says_how_to_have_it(engines):
    engine = engines()
    for refused in (submit, lambda *args, **how: engine.check_request(*args[2:], **how)):
        with pytest.raises(RequestError, match="--scheduling-policy priority") as error:
            refused(engine, "r", PROMPT, greedy(), priority=1)
        assert error.value.param == "priority"
    assert finish(submit(engine, "r", PROMPT, greedy(), priority=0)) == ["length"]


def test_a_request_id_in_use_is_refused_and_one_that_ended_is_not(engines):
    gate = Gate()
    engine = engines(StubRunner(before_step=gate))
    first = submit(engine, "r", PROMPT, greedy())
    with pytest.raises(RequestError, match="in use"):
        submit(engine, "r", PROMPT, greedy())
    gate.open.set()
    finish(first)
    assert finish(submit(engine, "r", PROMPT, greedy())) == ["length"]


def test_parameters_changed_after_submission_change_nothing(engines):
    gate = Gate()
    engine = engines(StubRunner(before_step=gate))
    params = greedy(logit_bias={1: 1.0})
    collector = submit(engine, "r", PROMPT, params)
    params.max_tokens = 1
    params.logit_bias[2] = 100.0
    gate.open.set()
    finish(collector)
    expected = generate(engine, PROMPT, greedy(logit_bias={1: 1.0}))
    assert collector.output().outputs[0].token_ids == expected.outputs[0].token_ids


def test_parameters_made_invalid_after_their_check_are_refused(engines):
    params = greedy()
    params.temperature = -1.0
    with pytest.raises(RequestError, match="temperature"):
        submit(engines(), "r", PROMPT, params)
