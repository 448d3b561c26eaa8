"""What one client sends within the limits of size is bounded work, done once and beside the event loop."""

from __future__ import annotations

import json
import threading

import httpx
import pytest
from server_stubs import RunningServer, StubTokenizer, greedy_text, make_state, serving

from ozone.engine.admission import Admission
from ozone.server import request_pacing, result_memory
from ozone.server.request_values import MAX_MESSAGES
from ozone.server.result_memory import ResultMemory, ResultSize
from ozone.server.routes import MAX_TOKEN_STRINGS

JSON = {"content-type": "application/json"}


def post(http: httpx.Client, path: str, body: dict | bytes, status: int = 200) -> dict:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.post(path, content=data, headers=JSON)
    assert answer.status_code == status, answer.text[:300]
    return answer.json()


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {str(token): 1 for token in range(258)}},
        {"stop": [f"{number:03}" + "x" * 61 for number in range(256)]},
        {"bad_words": [f"{number:03}" + "y" * 57 for number in range(256)]},
        {"allowed_token_ids": list(range(97, 123))},
    ],
)
def test_parameters_are_prepared_once_for_all_prompts(
    fields: dict, server: RunningServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    prepare = Admission.prepare
    monkeypatch.setattr(Admission, "prepare", lambda *args: calls.append(1) or prepare(*args))
    body = {"prompt": ["a"] * 300, "max_tokens": 1, "temperature": 0, "n": 2, **fields}
    assert len(post(http, "/v1/completions", body)["choices"]) == 600
    assert len(calls) == 1


def test_a_list_longer_than_the_vocabulary_is_refused(http: httpx.Client) -> None:
    body = {"prompt": "a", "max_tokens": 1, "allowed_token_ids": [97] * 300}
    error = post(http, "/v1/completions", body, 400)["error"]
    assert error["param"] == "allowed_token_ids" and "300 entries" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/completions", b'{"prompt":"a","x":[' + b"[]," * 2_000_000 + b"[]]}", "opening brackets"),
        ("/v1/completions", b"[" * 8_000_000, "opening brackets"),
        ("/v1/completions", b'{"a":' * 1_500_000, "opening brackets"),
        ("/v1/completions", b'{"a":' * 100_000, "not valid JSON"),
        (
            "/v1/chat/completions",
            b'{"messages":[' + b'{"role":"user","content":""},' * 200_000 + b'{"role":"user"}]}',
            f"at most {MAX_MESSAGES}",
        ),
        ("/v1/completions", b'{"prompt":[' + b"1," * 2_000_000 + b"1]}", "2000001 tokens"),
        ("/v1/completions", b'{"prompt":"' + b"a " * 2_000_000 + b'"}', "tokens"),
        (
            "/tokenize",
            b'{"return_token_strs":true,"prompt":"' + b"a" * (MAX_TOKEN_STRINGS + 1) + b'"}',
            "return_token_strs",
        ),
    ],
)
def test_a_body_that_would_be_too_much_work_is_refused(
    path: str, body: bytes, words: str, http: httpx.Client
) -> None:
    assert words in post(http, path, body, 400)["error"]["message"]


def test_long_texts_are_tokenized_beside_the_loop(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    encode = StubTokenizer.encode

    def watched(self: StubTokenizer, text: str, *args: object) -> list[int]:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return encode(self, text, *args)

    monkeypatch.setattr(StubTokenizer, "encode", watched)
    post(http, "/tokenize", {"prompt": "a" * 10_000})
    assert threads == {"ozone-prompt"}
    threads.clear()
    post(http, "/tokenize", {"prompt": "a" * 1_000_000})
    assert threads == {"ozone-large-prompt"}
    threads.clear()
    messages = [{"role": "user", "content": ""}] * 2000  # no text, and yet a long conversation
    post(http, "/v1/chat/completions", {"messages": messages}, 400)
    assert threads == {"ozone-prompt"}


def test_answers_that_begin_while_prompts_are_submitted_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_pacing, "_TURN_SECONDS", 0)
    prompts = [f"prompt {number}" for number in range(60)]
    with serving(make_state()) as running, httpx.Client(base_url=running.url, timeout=20) as http:
        answer = post(http, "/v1/completions", {"prompt": prompts, "max_tokens": 3, "temperature": 0})
        running.wait_until_idle()
    assert [choice["text"] for choice in answer["choices"]] == [greedy_text(text, 3) for text in prompts]


def test_log_probabilities_are_bounded(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"prompt": ["a" * 100] * 8, "n": 16, "max_tokens": 100, "logprobs": 5}
    assert len(post(http, "/v1/completions", body)["choices"]) == 128
    monkeypatch.setattr(result_memory, "MAX_ENTRIES", 8 * 16 * 100 * 6 - 1)
    error = post(http, "/v1/completions", body, 400)["error"]
    assert error["param"] == "logprobs" and "76800" in error["message"]
    error = post(http, "/v1/completions", {"prompt": ["a" * 200] * 100, "prompt_logprobs": 20}, 400)["error"]
    assert error["param"] == "prompt_logprobs"


def test_all_requests_together_are_bounded_and_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_memory, "MAX_ENTRIES_OF_ALL", 1000)
    with serving(make_state()) as running, httpx.Client(base_url=running.url, timeout=20) as http:
        body = {"prompt": "a" * 100, "prompt_logprobs": 8, "max_tokens": 2, "logprobs": 1}
        for _ in range(3):  # each has given back what it held
            post(http, "/v1/completions", body)
        error = post(http, "/v1/completions", {**body, "prompt": ["a" * 100] * 2}, 429)["error"]
        assert "try again later" in error["message"]
        refused = {**body, "priority": 1}  # by the engine, after the reservation
        post(http, "/v1/completions", refused, 400)
        post(http, "/v1/completions", body)


def test_memory_is_reserved_for_prompts_and_counted_for_completions() -> None:
    memory = ResultMemory()
    reservation = memory.reserve(ResultSize(100, 1000))
    reservation.add(5)
    assert memory.num_held == 105
    reservation.release()
    reservation.release()
    assert memory.num_held == 0
