"""The official openai client, over loopback, gets from the server what it gets from OpenAI."""

from __future__ import annotations

import math

import openai
import pytest
from server_stubs import greedy_text

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT_PROMPT = "<user>hi</><assistant>"


def test_models_are_listed_and_retrieved(api: openai.OpenAI) -> None:
    assert [model.id for model in api.models.list()] == ["stub", "alias/of-stub"]
    assert api.models.retrieve("alias/of-stub").id == "alias/of-stub"
    with pytest.raises(openai.NotFoundError, match="other/model"):
        api.models.retrieve("other/model")


def test_a_completion_goes_on_from_its_prompt(api: openai.OpenAI) -> None:
    answer = api.completions.create(model="stub", prompt="Once", temperature=0, max_tokens=12)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == "stub"
    assert answer.system_fingerprint
    assert answer.choices[0].text == greedy_text("Once", 12)
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        4,
        12,
        16,
    )


def test_a_completion_has_sixteen_tokens_unless_told(api: openai.OpenAI) -> None:
    assert api.completions.create(model="stub", prompt="Once").usage.completion_tokens == 16


def test_several_prompts_are_answered_in_order(api: openai.OpenAI) -> None:
    answer = api.completions.create(model="stub", prompt=["One", "Two"], temperature=0, max_tokens=5, n=2)
    texts = [greedy_text(prompt, 5) for prompt in ("One", "One", "Two", "Two")]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 20)


@pytest.mark.parametrize("prompt", [list(b"One"), [list(b"One")]])
def test_a_prompt_may_be_token_ids(api: openai.OpenAI, prompt: list) -> None:
    answer = api.completions.create(model="stub", prompt=prompt, temperature=0, max_tokens=5)
    assert answer.choices[0].text == greedy_text("One", 5)


def test_a_streamed_completion_equals_the_whole_one(api: openai.OpenAI) -> None:
    chunks = list(
        api.completions.create(
            model="stub",
            prompt=["One", "Two"],
            temperature=0,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *pieces, last = chunks
    texts = ["", ""]
    for chunk in pieces:
        texts[chunk.choices[0].index] += chunk.choices[0].text
        assert chunk.usage is None
    assert texts == [greedy_text("One", 9), greedy_text("Two", 9)]
    assert len(pieces) > 4, "the answer came in one piece"
    assert sum(chunk.choices[0].finish_reason == "length" for chunk in pieces) == 2
    assert last.choices == []
    assert last.usage.total_tokens == 6 + 18
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_can_come_with_every_chunk(api: openai.OpenAI) -> None:
    chunks = api.completions.create(
        model="stub",
        prompt="One",
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    assert [chunk.usage.completion_tokens for chunk in chunks][-2:] == [4, 4]


def test_a_seed_repeats_an_answer_and_another_does_not(api: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        return (
            api.completions.create(model="stub", prompt="x", temperature=2, max_tokens=32, seed=seed)
            .choices[0]
            .text
        )

    assert text(7) == text(7) != text(8)


def test_completion_logprobs_have_openais_shape(api: openai.OpenAI) -> None:
    answer = api.completions.create(model="stub", prompt="One", temperature=0, max_tokens=3, logprobs=2)
    choice = answer.choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == [0, 1, 2]
    for token, logprob, top in zip(
        choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        assert top[token] == logprob == max(top.values())
        assert len(top) == 2
        assert math.exp(logprob) == pytest.approx(0.49, abs=0.01)


def test_echo_returns_the_prompt_with_its_logprobs(api: openai.OpenAI) -> None:
    for prompt in ("One", list(b"One")):
        answer = api.completions.create(
            model="stub", prompt=prompt, temperature=0, max_tokens=2, logprobs=0, echo=True
        )
        choice = answer.choices[0]
        assert choice.text == "One" + greedy_text("One", 2)
        assert choice.logprobs.tokens == list(choice.text)
        assert choice.logprobs.token_logprobs[0] is None
        assert all(logprob < 0 for logprob in choice.logprobs.token_logprobs[1:])


def test_echo_without_new_tokens_scores_a_prompt(api: openai.OpenAI) -> None:
    answer = api.completions.create(model="stub", prompt="abc", max_tokens=0, logprobs=1, echo=True)
    assert answer.choices[0].text == "abc"
    assert len(answer.choices[0].logprobs.token_logprobs) == 3
    assert answer.usage.completion_tokens == 0


def test_streamed_echo_equals_the_whole_one(api: openai.OpenAI) -> None:
    fields = {
        "model": "stub",
        "prompt": "One",
        "temperature": 0,
        "max_tokens": 4,
        "logprobs": 1,
        "echo": True,
    }
    whole = api.completions.create(**fields, n=2)
    texts, tokens, offsets = ["", ""], [[], []], [[], []]
    for chunk in api.completions.create(**fields, n=2, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        tokens[choice.index] += choice.logprobs.tokens
        offsets[choice.index] += choice.logprobs.text_offset
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]


def test_a_chat_is_answered(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(model="stub", messages=MESSAGES, temperature=0, max_tokens=8)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == greedy_text(CHAT_PROMPT, 8)
    assert answer.usage.prompt_tokens == len(CHAT_PROMPT)


def test_a_chat_may_use_the_rest_of_the_context(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(model="stub", messages=MESSAGES, temperature=0)
    assert answer.usage.total_tokens == 256
    assert answer.choices[0].finish_reason == "length"


def test_a_repeated_prompt_is_found_in_the_prefix_cache(api: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "a long question, longer than a few blocks of the cache"}]
    for _ in range(2):
        answer = api.chat.completions.create(model="stub", messages=messages, max_tokens=1)
    assert answer.usage.prompt_tokens_details.cached_tokens >= 32


@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_a_cache_salt_keeps_tenants_apart(api: openai.OpenAI, kind: str) -> None:
    text = f"the same long {kind} question, longer than a few blocks of the cache"

    def cached_tokens(salt: str | None) -> int:
        how = {"model": "stub", "max_tokens": 1, "extra_body": {"cache_salt": salt}}
        if kind == "chat":
            answer = api.chat.completions.create(messages=[{"role": "user", "content": text}], **how)
        else:
            answer = api.completions.create(prompt=text, **how)
        return answer.usage.prompt_tokens_details.cached_tokens

    assert [cached_tokens(salt) for salt in ("a", "b", None)] == [0, 0, 0]
    assert all(cached_tokens(salt) >= 32 for salt in ("a", "b", None))


def test_a_streamed_chat_equals_the_whole_one(api: openai.OpenAI) -> None:
    chunks = list(
        api.chat.completions.create(
            model="stub",
            messages=MESSAGES,
            temperature=0,
            max_completion_tokens=8,
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *pieces, last = chunks
    texts = ["", ""]
    roles = [[], []]
    for chunk in pieces:
        choice = chunk.choices[0]
        assert chunk.object == "chat.completion.chunk"
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index].append(choice.delta.role)
    assert texts == [greedy_text(CHAT_PROMPT, 8)] * 2
    assert all(first == "assistant" and not any(rest) for first, *rest in roles)
    assert last.usage.completion_tokens == 16
    assert last.usage.prompt_tokens == len(CHAT_PROMPT)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_have_openais_shape(api: openai.OpenAI, stream: bool) -> None:
    fields = {"model": "stub", "messages": MESSAGES, "temperature": 0, "max_tokens": 3, "logprobs": True}
    answer = api.chat.completions.create(**fields, top_logprobs=2, stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    content = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert "".join(entry.token for entry in content) == greedy_text(CHAT_PROMPT, 3)
    for entry in content:
        assert bytes(entry.bytes).decode() == entry.token
        assert entry.top_logprobs[0].token == entry.token
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].logprob == entry.logprob > entry.top_logprobs[1].logprob


def test_a_stop_string_ends_the_answer(api: openai.OpenAI) -> None:
    full = greedy_text(CHAT_PROMPT, 12)
    stop = full[6:8]
    fields = {"model": "stub", "messages": MESSAGES, "temperature": 0, "max_tokens": 12, "stop": [stop]}
    expected = full[: full.index(stop)]
    choice = api.chat.completions.create(**fields).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.stop_reason) == (expected, "stop", stop)
    kept = api.chat.completions.create(**fields, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].message.content == expected + stop
    chunks = [chunk.choices[0] for chunk in api.chat.completions.create(**fields, stream=True)]
    assert "".join(choice.delta.content or "" for choice in chunks) == expected
    assert chunks[-1].finish_reason == "stop"


def test_content_may_come_in_parts(api: openai.OpenAI) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    answer = api.chat.completions.create(model="stub", messages=parts, temperature=0, max_tokens=8)
    assert answer.choices[0].message.content == greedy_text(CHAT_PROMPT, 8)


def test_an_unknown_model_is_not_found(api: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        api.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "'gpt-9'" in caught.value.message


def test_a_prompt_longer_than_the_context_is_refused(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"300 tokens.*256"):
        api.completions.create(model="stub", prompt="x" * 300)
    with pytest.raises(openai.BadRequestError, match=r"10 tokens and 250 more"):
        api.completions.create(model="stub", prompt="x" * 10, max_tokens=250)
