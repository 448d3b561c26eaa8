"""Request fields mean what they mean in vLLM, are refused, or leave a trace in the log."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError
from server_stubs import BOS, StubTokenizer, greedy_text, make_state, serving

from ozone.engine.chat_template import ChatTemplate
from ozone.server import ignored_fields
from ozone.server.ignored_fields import IgnoredFields
from ozone.server.lax_values import Integer, Number, Off
from ozone.server.truncation import Truncation

PARTS = {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, as if no field had been told of before."""
    monkeypatch.setattr(ignored_fields, "_ignored", IgnoredFields())
    caplog.set_level(logging.WARNING, "ozone.server.ignored_fields")
    return caplog


def complete(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"prompt": "abc", "temperature": 0, "max_tokens": 4, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def chat(url: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 1, "return_token_ids": True, **fields}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_typo_leaves_one_trace(http: httpx.Client, traces: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        complete(http, temprature=1, user="x", metadata={"a": 1})
    assert traces.messages == ["a request field is ignored: temprature; did you mean temperature?"]


def test_fields_of_nested_objects_leave_traces(http: httpx.Client, traces: pytest.LogCaptureFixture) -> None:
    body = {
        "messages": [{"role": "user", "content": "hi", "name": "me", "contnet": "x"}, PARTS],
        "max_tokens": 1,
        "stream": True,
        "stream_options": {"include_usages": True},
        "chat_template_kwargs": {"mood": "calm", "moood": "calm"},
        "reasoning_effort": "low",
        "length_penalty": 2.0,
    }
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert {message.removeprefix("a request field is ignored: ") for message in traces.messages} == {
        "messages.contnet; did you mean content?",
        "messages.content.cache_control",
        "stream_options.include_usages; did you mean include_usage?",
        "chat_template_kwargs.moood",
        "reasoning_effort",
        "length_penalty",
    }


def test_traces_are_bounded_and_safe_for_a_terminal(traces: pytest.LogCaptureFixture) -> None:
    ignored = IgnoredFields()
    ignored.note("", ["\x1b[2J" + "x" * 10_000], ())
    assert "\x1b" not in traces.messages[0]
    assert len(traces.messages[0]) < 200
    ignored.note("", (f"field{n}" for n in range(1000)), ())
    assert len(traces.messages) == 257
    assert "no further ones" in traces.messages[-1]


def test_a_prompt_is_cut_as_asked(http: httpx.Client) -> None:
    def echoed(**fields: Any) -> list[int]:
        return complete(http, return_token_ids=True, **fields)["prompt_token_ids"]

    assert echoed(truncate_prompt_tokens=2) == list(b"bc")
    assert echoed(truncate_prompt_tokens=2, truncation_side="right") == list(b"ab")
    assert echoed(prompt=[1, 2, 3], truncate_prompt_tokens=2) == [2, 3]
    assert echoed(truncate_prompt_tokens=9) == list(b"abc")
    assert echoed(prompt="x" * 300 + "y", truncate_prompt_tokens=-1, max_tokens=56) == [120] * 199 + [121]


def test_a_conversation_is_cut_as_asked(http: httpx.Client) -> None:
    answer = chat(str(http.base_url), truncate_prompt_tokens=11)
    assert bytes(answer["prompt_token_ids"]) == b"<assistant>"


@pytest.mark.parametrize(("keep_first", "expected"), [(True, [BOS, 97, 98]), (False, [BOS, 99, 100])])
def test_tokens_around_a_text_survive_a_cut(keep_first: bool, expected: list[int]) -> None:
    class WithBos(StubTokenizer):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [BOS] * add_special_tokens + super().encode(text)

    assert Truncation(3, keep_first).encode(WithBos(), "abcd", True) == expected
    assert Truncation(0, keep_first).cut([1, 2]) == []


@pytest.mark.parametrize("path", ["completions", "chat"])
def test_chosen_tokens_are_reported_on(http: httpx.Client, path: str) -> None:
    wanted = [ord("q"), ord("!")]
    if path == "completions":
        choice = complete(http, logprobs=1, logprob_token_ids=wanted)
        for token, top in zip(choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"], strict=True):
            assert set(top) == {token, "q", "!"}
            assert top["q"] > top["!"]
        return
    fields = {"logprobs": True, "logprob_token_ids": wanted}
    (entry,) = chat(str(http.base_url), **fields)["choices"][0]["logprobs"]["content"]
    assert {top["token"] for top in entry["top_logprobs"]} == {entry["token"], "q", "!"}


def test_repeat_penalty_is_llama_cpps_name(http: httpx.Client) -> None:
    fields = {"prompt": "aaaa", "max_tokens": 32}
    assert complete(http, repeat_penalty=5, **fields) == complete(http, repetition_penalty=5, **fields)
    assert complete(http, repeat_penalty=5, **fields)["text"] != complete(http, **fields)["text"]
    body = {"prompt": "a", "repeat_penalty": 1.1, "repetition_penalty": 1.2}
    assert http.post("/v1/completions", json=body).json()["error"]["param"] == "repeat_penalty"


def test_numbers_and_switches_may_come_in_quotes(http: httpx.Client) -> None:
    choice = complete(http, max_tokens="5", temperature="0", stream="False", top_k="1", echo="no")
    assert choice["text"] == greedy_text("abc", 5)
    assert complete(http, allowed_token_ids=["81", 81.0])["text"] == "QQQQ"
    assert complete(http, logit_bias={"81": "100"})["text"] == "QQQQ"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            Integer,
            {"5": 5, "-1": -1, 5.0: 5, 7: 7},
            ["", "5.5", "0x5", 5.5, True, 1e300, "9" * 99, None, [5]],
        ),
        (Number, {"0.5": 0.5, "1e-3": 1e-3, 2: 2.0}, [".5", "nan", "inf", "", True, None]),
        (Off, {"true": True, "No": False, 1: True, 0.0: False, None: False}, ["", "maybe", 2, [1]]),
    ],
)
def test_what_is_a_number_or_a_switch(kind: Any, good: dict[Any, Any], bad: list[Any]) -> None:
    adapter = TypeAdapter(kind, config={"strict": True})
    for given, expected in good.items():
        assert adapter.validate_python(given) == expected
    for given in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(given)


def test_the_template_gets_tools_and_the_reasoning_effort() -> None:
    source = "{{ tools | tojson if tools else '' }}{{ reasoning_effort or '' }} {{ enable_thinking }} "
    with serving(make_state(chat_template=ChatTemplate(source))) as server:

        def prompt(**fields: Any) -> str:
            return bytes(chat(server.url, **fields)["prompt_token_ids"]).decode()

        tools = [{"type": "function", "function": {"name": "f"}}]
        assert '"name": "f"' in prompt(tools=tools, tool_choice="none")
        assert prompt(reasoning_effort="low") == "low True "
        assert prompt(reasoning_effort="none") == "none False "
        kwargs = {"enable_thinking": False}
        assert prompt(reasoning_effort="low", chat_template_kwargs=kwargs) == "low False "
        tokens = httpx.post(f"{server.url}/tokenize", json={"messages": MESSAGES, "tools": tools}).json()
        assert b'"name": "f"' in bytes(tokens["tokens"])


def test_the_first_chunks_of_a_stream_count_no_tokens(http: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"messages": MESSAGES, "max_tokens": 3, "n": 2, "stream": True, "stream_options": options}
    lines = http.post("/v1/chat/completions", json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert [event["choices"][0]["delta"].get("role") for event in events[:3]] == ["assistant"] * 2 + [None]
    assert [event["usage"]["completion_tokens"] for event in events[:2]] == [0, 0]
    assert events[-1]["usage"]["completion_tokens"] == 6


def test_the_rendered_prompt_can_be_seen(http: httpx.Client) -> None:
    assert chat(str(http.base_url))["prompt_text"] is None
    assert chat(str(http.base_url), return_prompt_text=True)["prompt_text"] == "<user>hi</><assistant>"
