"""Any request, valid or not and as large as may be, is answered in JSON, and hurts nobody else.

A stub in a process of its own is asked; meanwhile `/health` is polled and one stream of known text is read.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_stubs import greedy_text
from stub_process import Process

from ozone.server.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeTextRequest,
)

STEP_SECONDS = 0.001
STREAM_TOKENS = 2000
PATIENCE = 60.0  # a stuck server, not a slow one
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Call:
    """A request: `body` is made when it is sent, so that a large one is described in a line."""

    path: str
    what: str
    body: Callable[[], bytes]

    def __repr__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True)
class Big:
    """A value too large to show, such as ``256 strings``."""

    what: str
    make: Callable[[], Any]

    def __repr__(self) -> str:
        return self.what


def strings(number: int, length: int) -> Big:
    return Big(
        f"<{number} strings of {length}>", lambda: [f"{i:03}".ljust(length, "x") for i in range(number)]
    )


def text(letters: str, length: int) -> Big:
    return Big(f"<{length} of {letters!r}>", lambda: (letters * length)[:length])


def ids(number: int) -> Big:
    return Big(f"<{number} ids>", lambda: [97 + i % 26 for i in range(number)])


def messages(number: int, content: str) -> Big:
    return Big(f"<{number} messages>", lambda: [{"role": "user", "content": content}] * number)


def biases(number: int) -> Big:
    return Big(f"<{number} biases>", lambda: {str(token): 1 for token in range(number)})


TEXTS = [
    "",
    "a",
    "é😀",
    "\x1b[2J\x00\r\n",
    "\ud800",
    "</s>",
    text("a", 4000),
    text("a", 4096),
    text("é", 99_999),
]
NUMBERS = [0, 1, 2, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 0.5, 1.5, -0.0, 1e308]
NAN = [float("nan"), float("inf")]
KINDS = [None, True, False, "5", [], {}, [[]], {"a": []}, ["a"], [1], [None], {"type": "json_object"}]
ANY = st.sampled_from([*TEXTS, *NUMBERS, *NAN, *KINDS])
# At the limits of single fields, and just beyond.
LIMITS: dict[str, list[Any]] = {
    "prompt": [strings(2048, 3), strings(2049, 3), ids(4094), ids(4096), ids(300_000), text("a ", MEGABYTE)],
    "messages": [messages(2, "a"), messages(500, ""), messages(16_385, ""), messages(3, "a" * 5000)],
    "tokens": [ids(4096), ids(200_000)],
    "stop": [strings(256, 64), strings(257, 1), text("x", 16_384), text("x", 16_385)],
    "bad_words": [strings(256, 60), strings(257, 60)],
    "logit_bias": [biases(258), biases(259), {"1": 101}, {"-1": 1}, {"1": "x"}],
    "allowed_token_ids": [ids(258), ids(259), ids(1), [258]],
    "stop_token_ids": [ids(128), ids(5000)],
    "n": [128, 129],
    "logprobs": [20, 21, True],
    "top_logprobs": [20, 21],
    "prompt_logprobs": [20, 21],
}  # fmt: skip
# A stub takes a step for each token: more than these would only be long.
LENGTHS = ("max_tokens", "max_completion_tokens")
BASES: dict[str, tuple[type, dict[str, Any]]] = {
    "/v1/completions": (CompletionRequest, {"prompt": "abc", "max_tokens": 2}),
    "/v1/chat/completions": (
        ChatCompletionRequest,
        {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    ),
    "/tokenize": (TokenizeTextRequest, {"prompt": "abc"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [97, 98]}),
}  # fmt: skip


def _value(field: str) -> st.SearchStrategy[Any]:
    if field in LENGTHS:
        return st.sampled_from([1, 2, 3, 0, -1, 4097, 10**18, 10**30, 1.5, "2", True, []])
    return st.sampled_from(LIMITS[field]) | ANY if field in LIMITS else ANY


def _fields(path: str) -> st.SearchStrategy[dict[str, Any]]:
    names = sorted({*BASES[path][0].model_fields, "temprature", "\x1b[2J", "x" * 5000})
    entry = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), _value(name)))
    likely = st.sampled_from(sorted(set(names) & set(LIMITS)))
    limit = likely.flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(LIMITS[name])))
    return st.lists(entry | limit, max_size=4).map(dict)


def _made(path: str, fields: dict[str, Any]) -> Call:
    values = {**BASES[path][1], **fields}

    def body() -> bytes:
        made = {name: value.make() if isinstance(value, Big) else value for name, value in values.items()}
        return json.dumps(made).encode()

    return Call(path, repr(values), body)


def _filled(path: str, begin: bytes, filling: bytes, end: bytes, size: int) -> Call:
    return Call(
        path,
        f"{begin!r} {filling!r}... {end!r}, {size} bytes",
        lambda: begin + filling * (size // len(filling)) + end,
    )


PATHS = st.sampled_from(sorted(BASES))
FILLINGS = [
    (b"", b"[", b""),
    (b"", b'{"a":', b""),
    (b'{"prompt":"', b"a", b""),
    (b'{"prompt":"a","max_tokens":1,"x":[', b"[],", b"[]]}"),
    (b'{"prompt":"a","max_tokens":1,"x":', b"9", b"}"),
    (b'{"prompt":"', b"\\ud83d\\ude00", b'"}'),
    (b'{"prompt":"', b"\xff", b'"}'),
    (b"", b"\x00", b""),
    (b'{"prompt":"a","max_tokens":1', b',"prompt":"b"', b"}"),
]


def calls(most_bytes: int) -> st.SearchStrategy[Call]:
    """Requests: a few fields of any values mostly, now and then raw bytes up to a size."""
    sizes = st.sampled_from([0, 100, 70_000, most_bytes])
    fields = PATHS.flatmap(lambda path: st.builds(_made, st.just(path), _fields(path)))
    filled = st.builds(
        lambda path, parts, size: _filled(path, *parts, size), PATHS, st.sampled_from(FILLINGS), sizes
    )
    raw = st.builds(lambda path, data: Call(path, repr(data), lambda: data), PATHS, st.binary(max_size=60))
    return st.one_of(fields, fields, fields, filled, raw)


def exchange(url: str, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
    """Status, content type and content of an answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"] or "", answer.read()
    finally:
        connection.close()


class Watch:
    """Threads that poll `/health` and read a stream again and again; `check` raises what they saw wrong."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.polls = self.events = 0
        self.wrong: list[str] = []
        self._ending = False
        self._threads = [
            threading.Thread(target=self._watched, args=(work,)) for work in (self._poll, self._read)
        ]
        for thread in self._threads:
            thread.start()

    def _watched(self, work: Callable[[], None]) -> None:
        try:
            while not self._ending:
                work()
        except Exception as error:  # a thread's error must reach the test
            self.wrong.append(repr(error))

    def _poll(self) -> None:
        status, _, _ = exchange(self.url, "GET", "/health")
        if status != 200:
            self.wrong.append(f"/health answers {status}")
        self.polls += 1
        time.sleep(0.02)

    def _read(self) -> None:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
        body = {
            "prompt": "slow",
            "max_tokens": STREAM_TOKENS,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
        }
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            said = ""
            for line in connection.getresponse():
                if line.startswith(b"data: {"):
                    said += json.loads(line.removeprefix(b"data: "))["choices"][0]["text"]
                    self.events += 1
                if self._ending:
                    break
        finally:
            connection.close()
        whole = greedy_text("slow", STREAM_TOKENS)
        if said != whole and not (self._ending and whole.startswith(said)):
            self.wrong.append(f"the stream lost something: {len(said)} of {STREAM_TOKENS} tokens")

    def check(self) -> None:
        assert not self.wrong, self.wrong[:3]

    def close(self) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watch]:
    process = Process(str(STEP_SECONDS))
    # Nobody may read what it writes: it would stop where the pipe is full.
    threading.Thread(target=process.popen.stderr.read, daemon=True).start()
    watch = Watch(process.url)
    yield watch
    watch.close()
    process.popen.kill()
    process.popen.wait()


def check(watch: Watch, call: Call) -> None:
    before = watch.polls
    status, kind, content = exchange(watch.url, "POST", call.path, call.body())
    assert 200 <= status < 300 or 400 <= status < 500, content[:500]
    if status >= 400:
        assert kind == "application/json"
        error = json.loads(content)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].isprintable() and 0 < len(error["message"]) < 1100
    elif kind.startswith("text/event-stream"):
        *events, last = [
            line.removeprefix(b"data: ") for line in content.split(b"\n\n") if line.startswith(b"data:")
        ]
        assert last == b"[DONE]" and all(isinstance(json.loads(event), dict) for event in events)
    else:
        assert kind == "application/json" and isinstance(json.loads(content), dict)
    assert watch.polls >= before  # it has not stopped; what it saw is checked here
    watch.check()


def _answers(watch: Watch) -> None:
    """The stream flows and `/health` answers after all of it."""
    polls, events = watch.polls, watch.events
    deadline = time.monotonic() + PATIENCE
    while watch.polls < polls + 2 or watch.events < events + 2:
        watch.check()
        assert time.monotonic() < deadline, "nothing moves"
        time.sleep(0.01)


# Shrinking would send the culprit hundreds of times.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_quick = settings(max_examples=100, phases=_PHASES, suppress_health_check=list(HealthCheck))


@_quick
@given(call=calls(MEGABYTE))
def test_any_request_is_answered_and_hurts_nobody(watched: Watch, call: Call) -> None:
    check(watched, call)


def test_the_watch_saw_health_and_the_stream_all_along(watched: Watch) -> None:
    _answers(watched)


@pytest.mark.slow
@settings(_quick, max_examples=1000)
@given(call=calls(8 * MEGABYTE - 100))
def test_a_thousand_requests_are_answered_and_hurt_nobody(watched: Watch, call: Call) -> None:
    check(watched, call)
