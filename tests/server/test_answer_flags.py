"""Flags of the server that shape its answers: chunks, usage, names of tokens, what the template gets."""

from __future__ import annotations

import json
from typing import Any

import httpx
from server_stubs import greedy_text, make_state, serving

from ozone.engine.chat_template import ChatTemplate
from ozone.engine.outputs import Logprob, RequestDelta
from ozone.server.flags import ServerSettings
from ozone.server.stream_interval import StreamInterval

MESSAGES = [{"role": "user", "content": "hi"}]
TEMPLATE = "{{ messages[0].content }}|{{ mood or '' }}|{{ tools | length if tools else 0 }}"


def events(url: str, path: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"temperature": 0, "max_tokens": 10, "stream": True, **fields}
    lines = httpx.post(f"{url}{path}", json=body).text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def test_a_stream_comes_in_larger_chunks_with_the_same_content() -> None:
    with serving(make_state(settings=ServerSettings(port=0, stream_interval=4))) as server:
        path, fields = "/v1/completions", {"prompt": ["abc", "xyz"], "logprobs": 1}
        for interval, sizes in ((None, [1, 4, 4, 1]), (2, [1, 4, 4, 1]), (6, [1, 6, 3])):
            chunks = [
                event["choices"][0] for event in events(server.url, path, stream_interval=interval, **fields)
            ]
            for index, prompt in enumerate(("abc", "xyz")):
                own = [chunk for chunk in chunks if chunk["index"] == index]
                assert [len(chunk["logprobs"]["tokens"]) for chunk in own] == sizes
                assert "".join(chunk["text"] for chunk in own) == greedy_text(prompt, 10)
                assert [chunk["finish_reason"] for chunk in own] == [None] * (len(sizes) - 1) + ["length"]
                assert [n for chunk in own for n in chunk["logprobs"]["text_offset"]] == list(range(10))
        whole = httpx.post(f"{server.url}{path}", json={"prompt": "abc", "max_tokens": 9, "temperature": 0})
        assert whole.json()["choices"][0]["text"] == greedy_text("abc", 9)


def test_an_error_does_not_swallow_the_text_before_it() -> None:
    interval = StreamInterval(8)
    taken = [interval.take((0, 0), RequestDelta("r", text=text, token_ids=[1])) for text in "abc"]
    assert [[delta.text for delta in deltas] for deltas in taken] == [["a"], [], []]
    last = RequestDelta("r", finish_reason="error", error="x")
    assert [delta.text for delta in interval.take((0, 0), last)] == ["bc", ""]


def test_waiting_logprobs_are_bounded() -> None:
    interval = StreamInterval(10**6)
    known = {n: Logprob(-1.0) for n in range(500)}
    taken = [interval.take((0, 0), RequestDelta("r", token_ids=[1], logprobs=[known])) for _ in range(19)]
    assert [len(deltas) for deltas in taken] == [1, *[0] * 8, 1, *[0] * 8, 1]


def test_usage_is_forced_and_its_details_are_left_out() -> None:
    settings = ServerSettings(port=0, force_include_usage=True, prompt_tokens_details=False)
    with serving(make_state(settings=settings)) as server:
        for path, fields in (
            ("/v1/completions", {"prompt": "abc"}),
            ("/v1/chat/completions", {"messages": MESSAGES}),
            ("/v1/completions", {"prompt": "abc", "stream_options": {"include_usage": False}}),
        ):
            found = events(server.url, path, **fields)
            counts = [event["usage"]["completion_tokens"] for event in found]
            assert counts == sorted(counts)
            assert counts[-1] == 10
            assert found[-1]["choices"] == []
            assert found[-1]["usage"]["prompt_tokens_details"] is None


def test_tokens_are_named_by_id_unless_a_request_says_otherwise() -> None:
    with serving(make_state(settings=ServerSettings(port=0, return_tokens_as_token_ids=True))) as server:

        def tokens(**fields: Any) -> list[str]:
            body = {"prompt": "abc", "temperature": 0, "max_tokens": 1, "logprobs": 1, **fields}
            answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
            return answer["choices"][0]["logprobs"]["tokens"]

        letter = greedy_text("abc", 1)
        assert tokens() == [f"token_id:{ord(letter)}"]
        assert tokens(return_tokens_as_token_ids=None) == [f"token_id:{ord(letter)}"]
        assert tokens(return_tokens_as_token_ids=False) == [letter]


def test_the_template_gets_the_servers_variables_and_no_excluded_tools() -> None:
    settings = ServerSettings(
        port=0,
        default_chat_template_kwargs={"mood": "calm"},
        exclude_tools_when_tool_choice_none=True,
    )
    with serving(make_state(settings=settings, chat_template=ChatTemplate(TEMPLATE))) as server:

        def prompt(**fields: Any) -> str:
            body = {"messages": MESSAGES, "max_tokens": 1, "return_token_ids": True, **fields}
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()
            return bytes(answer["prompt_token_ids"]).decode()

        assert prompt() == "hi|calm|0"
        assert prompt(chat_template_kwargs={"mood": "wild"}) == "hi|wild|0"
        tools = [{"type": "function", "function": {"name": "f"}}]
        assert prompt(tools=tools, tool_choice="none") == "hi|calm|0"


def test_the_template_gets_contents_as_the_flag_says() -> None:
    for content_format, expected in (("string", "hi|"), ("openai", "[{'type': 'text', 'text': 'hi'}]|")):
        settings = ServerSettings(port=0, chat_template_content_format=content_format)
        with serving(make_state(settings=settings, chat_template=ChatTemplate(TEMPLATE))) as server:
            answer = httpx.post(f"{server.url}/tokenize", json={"messages": MESSAGES}).json()
            assert bytes(answer["tokens"]).decode().startswith(expected)
