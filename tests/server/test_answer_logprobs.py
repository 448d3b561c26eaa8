"""Log-probabilities of answers: bytes, names and offsets of tokens, also where they split characters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_stubs import BOS, EOS, RunningServer, StubTokenizer, make_state, serving

from ozone.engine.outputs import Logprob
from ozone.server.text_offsets import offsets_in_prompt
from ozone.server.token_names import TokenNames

SMILE = "\U0001f600"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def speaker() -> Iterator[RunningServer]:
    """A server that says what a test gives it to say."""
    with serving(make_state()) as running:
        yield running


def say(speaker: RunningServer, path: str, answer: list[int], **fields: Any) -> dict[str, Any]:
    speaker.runner.answer = answer
    body = {"temperature": 0, "max_tokens": len(answer), **fields}
    response = httpx.post(f"{speaker.url}{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def complete(speaker: RunningServer, answer: list[int], **fields: Any) -> dict[str, Any]:
    """The choice of a completion, which must be the same as a stream and whole."""
    fields = {"prompt": "x", "logprobs": 1, **fields}
    (choice,) = say(speaker, "/v1/completions", answer, **fields)["choices"]
    assert joined(streamed(speaker, "/v1/completions", answer, **fields)) == {
        name: choice[name] for name in ("text", "logprobs", "finish_reason", "stop_reason")
    }
    return choice


def streamed(speaker: RunningServer, path: str, answer: list[int], **fields: Any) -> list[dict[str, Any]]:
    """The choices of a stream's chunks."""
    speaker.runner.answer = answer
    body = {"temperature": 0, "max_tokens": len(answer), "stream": True, **fields}
    lines = httpx.post(f"{speaker.url}{path}", json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return [event["choices"][0] for event in events]


def joined(choices: list[dict[str, Any]]) -> dict[str, Any]:
    logprobs: dict[str, list[Any]] = {}
    for choice in choices:
        for name, values in (choice["logprobs"] or {}).items():
            logprobs.setdefault(name, []).extend(values)
    return {
        "text": "".join(choice["text"] for choice in choices),
        "logprobs": logprobs or None,
        "finish_reason": choices[-1]["finish_reason"],
        "stop_reason": choices[-1]["stop_reason"],
    }


@pytest.mark.parametrize("ended", [False, True])
def test_the_bytes_of_a_chats_tokens_are_its_text(speaker: RunningServer, ended: bool) -> None:
    answer = [*f"a{SMILE}\u00e9.".encode(), *[EOS] * ended]
    fields = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1}
    (choice,) = say(speaker, "/v1/chat/completions", answer, **fields)["choices"]
    entries = choice["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == choice["message"]["content"]
    assert choice["message"]["content"] == f"a{SMILE}\u00e9."
    assert len(entries) == len(answer)
    assert [entry["token"] for entry in entries[:2]] == ["a", "\ufffd"]
    assert entries[1]["top_logprobs"][0]["bytes"] == [0xF0]
    chunks = streamed(speaker, "/v1/chat/completions", answer, **fields)
    assert [entry for chunk in chunks for entry in (chunk["logprobs"] or {}).get("content", [])] == entries


@pytest.mark.parametrize("as_ids", [False, True])
def test_bytes_are_the_tokens_however_it_is_named(speaker: RunningServer, as_ids: bool) -> None:
    fields = {"messages": MESSAGES, "logprobs": True, "return_tokens_as_token_ids": as_ids}
    (choice,) = say(speaker, "/v1/chat/completions", [ord("a")], **fields)["choices"]
    (entry,) = choice["logprobs"]["content"]
    assert (entry["token"], entry["bytes"]) == ("token_id:97" if as_ids else "a", [97])


def test_alternatives_that_decode_alike_are_all_there(speaker: RunningServer) -> None:
    choice = complete(speaker, list(b"ok"), prompt=f"{SMILE} {SMILE}", echo=True, logprobs=5)
    logprobs = choice["logprobs"]
    assert logprobs["tokens"][:5] == [r"bytes:\xf0", r"bytes:\x9f", r"bytes:\x98", r"bytes:\x80", " "]
    for token, value, top in zip(*(logprobs[name] for name in list(logprobs)[1:]), strict=True):
        if top is not None:
            assert top[token] == value
            assert len(top) == (5 if value == max(top.values()) else 6)
    everything = complete(speaker, [ord("a")], logprobs=20, logit_bias={str(n): 50 for n in range(240, 250)})
    (top,) = everything["logprobs"]["top_logprobs"]
    assert len(top) in (20, 21)


def test_a_taken_name_gives_way_to_the_tokens_id() -> None:
    names = TokenNames(StubTokenizer())
    known = {5: Logprob(-1.0, 1, "a"), 6: Logprob(-2.0, 2, "a"), 240: Logprob(-3.0, 3, "\ufffd")}
    assert names.by_name(known, None) == {"a": -1.0, "token_id:6": -2.0, r"bytes:\xf0": -3.0}
    assert names.by_name(known, 2) == {"a": -1.0, "token_id:6": -2.0}
    assert names.unambiguous(0, "\ufffd") == r"bytes:\x00"


def test_offsets_count_the_characters_of_the_text(speaker: RunningServer) -> None:
    choice = complete(speaker, list(f"a{SMILE}b".encode()))
    assert choice["text"] == f"a{SMILE}b"
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 1, 2]


def test_a_broken_character_at_the_end_is_one_character(speaker: RunningServer) -> None:
    choice = complete(speaker, list(f"a{SMILE}".encode()[:3]))
    assert choice["text"] == "a\ufffd"
    assert choice["logprobs"]["text_offset"] == [0, 1, 1]


def test_special_tokens_that_the_text_lacks_have_no_length(speaker: RunningServer) -> None:
    answer = [BOS, *b"ab", BOS, *b"c", EOS]
    choice = complete(speaker, answer)
    assert choice["text"] == "abc"
    assert choice["logprobs"]["tokens"] == ["<s>", "a", "b", "<s>", "c", "</s>"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 2, 2, 3]
    shown = complete(speaker, answer, skip_special_tokens=False)
    assert shown["text"] == "<s>ab<s>c"
    assert shown["logprobs"]["text_offset"] == [0, 3, 4, 5, 8, 9]


def test_offsets_go_on_behind_an_echoed_prompt(speaker: RunningServer) -> None:
    choice = complete(speaker, list(b"yz"), prompt=[BOS, *f"{SMILE}b".encode()], echo=True)
    assert choice["text"] == f"{SMILE}byz"
    assert choice["logprobs"]["text_offset"] == [0, 0, 0, 0, 0, 1, 2, 3]
    score = complete(speaker, [97], prompt="ab", echo=True, max_tokens=0)
    assert score["logprobs"]["text_offset"] == [0, 1]


def test_special_tokens_written_out_in_a_prompt_count() -> None:
    tokens = [BOS, BOS, 97, EOS]
    assert offsets_in_prompt(StubTokenizer(), tokens, "<s>a") == [0, 3, 3, 4]
    assert offsets_in_prompt(StubTokenizer(), tokens, "a") == [0, 0, 0, 1]


@pytest.mark.parametrize("include", [False, True])
def test_no_offset_is_past_the_end_of_a_text_cut_by_a_stop_string(
    speaker: RunningServer, include: bool
) -> None:
    choice = complete(speaker, list(b"one, two, three"), stop=[", three"], include_stop_str_in_output=include)
    assert choice["text"] == ("one, two, three" if include else "one, two")
    assert len(choice["logprobs"]["tokens"]) == 15
    assert max(choice["logprobs"]["text_offset"]) <= len(choice["text"])
    assert complete(speaker, list(b"one, thr!"), stop=[", three"])["text"] == "one, thr!"


def test_no_alternatives_leave_one_entry_a_token(speaker: RunningServer) -> None:
    logprobs = complete(speaker, list(b"ab"), logprobs=0)["logprobs"]
    assert logprobs["top_logprobs"] == [
        {token: value} for token, value in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    ]
