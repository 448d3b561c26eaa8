"""The engine end to end over a stub model: what comes out of a request, and when and why it ends."""

from __future__ import annotations

import threading
import time
from functools import cache

import numpy as np
import pytest
from engine_stubs import (
    VOCAB_SIZE,
    StubRunner,
    StubTokenizer,
    generate,
    greedy_continuation,
    logits_after,
    make_engine,
    submit,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ozone.engine.engine import Engine
from ozone.engine.sampling_params import SamplingParams

PROMPT = [1, 2, 3]


def greedy(max_tokens: int | None = 8, **kwargs) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, **kwargs)


def text_of(token_ids: list[int]) -> str:
    return StubTokenizer().decode(token_ids)


def test_a_greedy_request_gets_the_models_continuation(engines):
    output = generate(engines(), PROMPT, greedy(20))
    assert output.outputs[0].token_ids == greedy_continuation(PROMPT, 20)
    assert output.outputs[0].finish_reason == "length"
    assert output.finished
    assert output.outputs[0].text == ""


def test_text_is_that_of_the_tokens(engines):
    output = generate(engines(tokenizer=StubTokenizer()), PROMPT, greedy(20)).outputs[0]
    assert output.text == text_of(output.token_ids)
    without = generate(engines(tokenizer=StubTokenizer()), PROMPT, greedy(20, detokenize=False)).outputs[0]
    assert (without.text, without.token_ids) == ("", output.token_ids)


def test_deltas_make_the_output_and_only_the_last_has_a_reason_and_metrics(engines):
    deltas = []
    ended = threading.Event()

    def on_delta(delta):
        deltas.append(delta)
        if delta.finish_reason is not None:
            ended.set()

    engines(tokenizer=StubTokenizer()).add_request("r", PROMPT, greedy(6), on_delta=on_delta)
    assert ended.wait(10)
    assert [t for d in deltas for t in d.token_ids] == greedy_continuation(PROMPT, 6)
    assert "".join(d.text for d in deltas) == text_of(greedy_continuation(PROMPT, 6))
    assert [d.finish_reason for d in deltas] == [None] * 5 + ["length"]
    assert [d.num_cached_tokens for d in deltas] == [0] + [None] * 5
    assert [d.metrics is None for d in deltas] == [True] * 5 + [False]
    times = deltas[-1].metrics
    assert (
        times.arrival_time
        <= times.first_scheduled_time
        <= times.first_token_time
        <= times.last_token_time
        <= times.finished_time
        <= time.monotonic()
    )


def test_end_of_sequence_ends_it_and_leaves_no_text(engines):
    tokens = greedy_continuation(PROMPT, 8)
    end = next(i for i in range(2, 8) if tokens[i] not in tokens[:i])
    engine = engines(tokenizer=StubTokenizer(), eos_token_ids=[tokens[end], 63])
    output = generate(engine, PROMPT, greedy()).outputs[0]
    assert output.token_ids == tokens[: end + 1]
    assert (output.finish_reason, output.stop_reason) == ("stop", None)
    assert output.text == text_of(tokens[:end])
    shown = generate(engine, PROMPT, greedy(include_stop_str_in_output=True)).outputs[0]
    assert shown.text == text_of(tokens[: end + 1])
    ignored = generate(engine, PROMPT, greedy(ignore_eos=True)).outputs[0]
    assert ignored.token_ids == tokens
    later = generate(engine, PROMPT, greedy(min_tokens=end + 1)).outputs[0]
    assert len(later.token_ids) > end + 1
    assert tokens[end] not in later.token_ids[: end + 1]


def test_a_stop_token_ends_it_and_is_the_stop_reason(engines):
    tokens = greedy_continuation(PROMPT, 8)
    output = generate(engines(), PROMPT, greedy(stop_token_ids=[tokens[3]])).outputs[0]
    end = tokens.index(tokens[3])
    assert output.token_ids == tokens[: end + 1]
    assert (output.finish_reason, output.stop_reason) == ("stop", tokens[3])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 12), st.booleans()
)
def test_a_stream_never_shows_a_part_of_a_stop_string(prompt, length, start, include):
    tokens = greedy_continuation(prompt, 24)
    text = text_of(tokens)
    stop = text[start : start + length]
    engine = shared_text_engine()
    shown = []
    ended = threading.Event()

    def on_delta(delta):
        shown.append(delta.text)
        if delta.finish_reason is not None:
            assert (delta.finish_reason, delta.stop_reason) == ("stop", stop)
            ended.set()

    params = greedy(24, stop=["never there", stop], include_stop_str_in_output=include)
    engine.add_request("r", prompt, params, on_delta=on_delta)
    assert ended.wait(10)
    cut = text.index(stop)
    assert "".join(shown) == text[: cut + length if include else cut]


@cache
def shared_text_engine() -> Engine:
    """One engine for all examples of a property test."""
    return make_engine(tokenizer=StubTokenizer())


def test_stop_strings_do_not_count_until_min_tokens_are_there(engines):
    tokens = greedy_continuation(PROMPT, 12)
    text = text_of(tokens)
    output = generate(engines(tokenizer=StubTokenizer()), PROMPT, greedy(12, stop=[text[2]], min_tokens=12))
    assert output.outputs[0].text == text


def test_generation_ends_where_the_context_does(engines):
    engine = engines(max_model_len=10)
    for max_tokens in (None, 100):
        output = generate(engine, PROMPT, greedy(max_tokens)).outputs[0]
        assert (len(output.token_ids), output.finish_reason) == (7, "length")
    cache_is_smaller = engines(StubRunner(num_blocks=2, block_size=4))
    assert len(generate(cache_is_smaller, PROMPT, greedy(None)).outputs[0].token_ids) == 5


def test_bad_words_are_never_completed(engines):
    engine = engines(tokenizer=StubTokenizer())
    tokens = greedy_continuation([97 % VOCAB_SIZE], 6)
    word = "".join(chr(64 + t) for t in tokens[1:3])
    assert StubTokenizer().encode(word) == tokens[1:3]
    output = generate(engine, [97 % VOCAB_SIZE], greedy(6, bad_words=[word])).outputs[0]
    assert output.token_ids[:2] == tokens[:2]
    assert output.token_ids[2] != tokens[2]


def test_completions_share_the_prompt_and_differ_in_their_seeds(engines):
    for caching in (True, False):
        runner = StubRunner(block_size=4)
        engine = engines(runner, enable_prefix_caching=caching)
        params = SamplingParams(n=4, seed=5, max_tokens=8)
        output = generate(engine, list(range(18)), params)
        assert [o.index for o in output.outputs] == [0, 1, 2, 3]
        assert len({tuple(o.token_ids) for o in output.outputs}) == 4
        first = generate(engine, list(range(18)), SamplingParams(seed=5, max_tokens=8)).outputs[0]
        assert output.outputs[0].token_ids == first.token_ids
        # The first computes 18 tokens of the prompt, each of the others what 4 full blocks leave of it.
        starts = {request_id: start for step in reversed(runner.steps[:-8]) for request_id, start, *_ in step}
        assert starts == {"request": 0, "request/1": 16, "request/2": 16, "request/3": 16}


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(engines):
    engine = engines()
    params = SamplingParams(seed=3, max_tokens=10)
    alone = generate(engine, PROMPT, params).outputs[0].token_ids
    collectors = [submit(engine, f"r{i}", PROMPT, SamplingParams(max_tokens=15, seed=i)) for i in range(8)]
    assert generate(engine, PROMPT, params).outputs[0].token_ids == alone
    assert all(c.wait(10) for c in collectors)
    assert collectors[3].output().outputs[0].token_ids[:10] == alone


def test_requests_without_a_seed_differ_and_repeat_with_the_engines_seed(engines):
    def three(seed):
        engine = engines(seed=seed)
        return [generate(engine, PROMPT, SamplingParams()).outputs[0].token_ids for _ in range(3)]

    first = three(1)
    assert len({tuple(tokens) for tokens in first}) == 3
    assert three(1) == first
    assert three(2) != first


def test_logprobs_come_with_every_token(engines):
    output = generate(engines(tokenizer=StubTokenizer()), PROMPT, greedy(4, logprobs=2)).outputs[0]
    assert [next(iter(entry)) for entry in output.logprobs] == output.token_ids
    assert all(len(entry) == 2 for entry in output.logprobs)
    chosen = [entry[t] for entry, t in zip(output.logprobs, output.token_ids, strict=True)]
    assert [c.decoded_token for c in chosen] == list(text_of(output.token_ids))
    assert output.cumulative_logprob == pytest.approx(sum(c.logprob for c in chosen))


@pytest.mark.parametrize("chunk", [64, 7])
def test_prompt_logprobs_are_those_of_the_prompts_tokens_even_if_they_are_cached(engines, chunk):
    runner = StubRunner()
    engine = engines(runner, max_num_batched_tokens=chunk)
    prompt = list(range(20))
    generate(engine, prompt, greedy(1))
    del runner.steps[:]
    output = generate(engine, prompt, greedy(3, prompt_logprobs=0))
    assert output.num_cached_tokens == 0
    assert output.prompt_logprobs[0] is None
    for position in range(1, 20):
        logits = logits_after(prompt[:position]).astype(float)
        entry = output.prompt_logprobs[position][prompt[position]]
        expected = logits[prompt[position]] - np.log(np.exp(logits).sum())
        assert entry.logprob == pytest.approx(expected, abs=1e-5)
    # All rows while the prompt is computed, one row a step after it.
    assert [logits for step in runner.steps for *_, logits in step][-2:] == ["last", "last"]
    assert {logits for step in runner.steps[:-2] for *_, logits in step} == {"all"}


def test_a_prompt_seen_before_is_found_in_the_cache(engines):
    runner = StubRunner(block_size=4)
    engine = engines(runner)
    prompt = list(range(16))
    first = generate(engine, prompt, greedy(9))
    again = generate(engine, prompt, greedy(9))
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 12)
    follow_up = prompt + first.outputs[0].token_ids
    assert generate(engine, [*follow_up, 1], greedy(2)).num_cached_tokens == 24
    stats = engine.stats()
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (16 + 16 + 26, 12 + 24)
    without = engines(enable_prefix_caching=False)
    assert [generate(without, prompt, greedy(2)).num_cached_tokens for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("other", ["b", "a ", None, "\ud800"])
def test_a_salt_shares_cached_prefixes_with_its_own_kind_only(engines, other):
    engine = engines(StubRunner(block_size=4))
    prompt = list(range(16))
    outputs = [generate(engine, prompt, greedy(9), cache_salt=salt) for salt in ("a", other, "a", other)]
    assert [output.num_cached_tokens for output in outputs] == [0, 0, 12, 12]
    assert {tuple(output.outputs[0].token_ids) for output in outputs} == {
        tuple(greedy_continuation(prompt, 9))
    }


def test_completions_of_a_salted_request_share_its_prompt(engines):
    runner = StubRunner(block_size=4)
    generate(engines(runner), list(range(18)), greedy(2, n=2), cache_salt="a")
    assert next(start for step in runner.steps for name, start, *_ in step if name == "request/1") == 16


def test_stats_count_tokens_and_steps(engines):
    engine = engines()
    for _ in range(2):
        generate(engine, PROMPT, greedy(5))
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens, stats.num_steps) == (6, 10, 10)
    assert (stats.num_running, stats.num_waiting, stats.kv_cache_usage) == (0, 0, 0.0)


def test_without_text_reported_tokens_have_none(engines):
    engine = engines(tokenizer=StubTokenizer())
    output = generate(engine, PROMPT[:3], greedy(2, detokenize=False, logprobs=1, prompt_logprobs=1))
    reports = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    assert len(reports) == 4
    assert {entry.decoded_token for known in reports for entry in known.values()} == {None}
