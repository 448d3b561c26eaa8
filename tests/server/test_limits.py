"""Who may ask, how much, and how many at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from server_stubs import RunningServer, make_state, serving

from ozone.server.flags import ServerSettings

BODY = {"prompt": "x", "max_tokens": 2}


@pytest.fixture(scope="module")
def strict_server() -> Iterator[RunningServer]:
    settings = ServerSettings(
        port=0, api_keys=("sesame", "open"), max_request_bytes=1000, allowed_origins=("https://a.example",)
    )
    with serving(make_state(settings=settings)) as running:
        yield running


@pytest.fixture
def strict(strict_server: RunningServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": "Bearer sesame"}
    with httpx.Client(base_url=strict_server.url, headers=headers, timeout=20) as client:
        yield client


def test_a_body_over_the_limit_is_refused(strict: httpx.Client) -> None:
    answer = strict.post("/v1/completions", json={**BODY, "prompt": "x" * 1000})
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["error"]["message"]
    assert strict.post("/v1/completions", json=BODY).status_code == 200


def test_a_streamed_body_over_the_limit_is_refused(strict: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(20):
            yield b"x" * 100

    answer = strict.post("/v1/completions", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_body_that_is_never_sent_is_refused_by_its_declared_length(strict_server: RunningServer) -> None:
    port = int(strict_server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer open\r\n"
            b"Content-Type: application/json\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic sesame", "sesame", "Bearer sesamé"],
)
def test_without_a_right_key_everything_but_health_is_closed(
    strict_server: RunningServer, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    with httpx.Client(base_url=strict_server.url, headers=headers) as http:
        for method, path in (
            ("POST", "/v1/completions"),
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("GET", "/nothing"),
            ("GET", "//health"),
        ):
            answer = http.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize("key", ["sesame", "open"])
def test_each_key_opens(strict_server: RunningServer, key: str) -> None:
    with openai.OpenAI(base_url=f"{strict_server.url}/v1", api_key=key) as api:
        assert api.completions.create(model="stub", **BODY).choices


def test_another_origin_needs_permission(strict: httpx.Client, http: httpx.Client) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}

    def allowed(client: httpx.Client, origin: str) -> bool:
        answer = client.options("/v1/completions", headers={"Origin": origin, **preflight})
        return answer.headers.get("access-control-allow-origin") == origin

    assert allowed(strict, "https://a.example")
    assert not allowed(strict, "https://b.example")
    assert not allowed(http, "https://a.example")
    refused = httpx.get(f"{strict.base_url}/v1/models", headers={"Origin": "https://a.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://a.example"


def test_a_full_queue_answers_429_and_recovers() -> None:
    state = make_state(scheduler={"max_num_seqs": 1, "max_waiting_requests": 2})
    with serving(state) as server:
        server.runner.delay = 0.05
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(
                httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 9}, timeout=30)
            )

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 4 <= len(refused) <= 6
        assert all(answer.status_code == 200 for answer in answers if answer not in refused)
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["error"]["type"] == "rate_limit_error"
        assert 'finished_reason="abort",model_name="stub"} 0.0' in httpx.get(f"{server.url}/metrics").text
        server.runner.delay = 0
        ask()
        assert answers[-1].status_code == 200
        server.wait_until_idle()


def test_a_request_that_only_partly_fits_the_queue_leaves_nothing_behind() -> None:
    state = make_state(scheduler={"max_num_seqs": 1, "max_waiting_requests": 4})
    with serving(state) as server:
        server.runner.delay = 0.02
        slow = threading.Thread(
            target=httpx.post,
            args=(f"{server.url}/v1/completions",),
            kwargs={"json": {"prompt": ["a", "b", "c"], "max_tokens": 20}, "timeout": 30},
        )
        slow.start()
        while state.engine.stats().num_running == 0:
            time.sleep(0.005)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": ["x"] * 4, "max_tokens": 200})
        assert answer.status_code == 429
        slow.join()
        started = time.monotonic()
        server.wait_until_idle()
        assert time.monotonic() - started < 1, "the refused request's prompts still ran"
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'finished_reason="length",model_name="stub"} 3.0' in metrics
        assert 'finished_reason="abort",model_name="stub"} 0.0' in metrics


def test_a_request_that_can_never_fit_the_queue_is_told_so() -> None:
    state = make_state(scheduler={"max_waiting_requests": 4}, max_waiting_requests=4)
    with serving(state) as server:
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": ["x", "y"], "n": 3})
        assert answer.status_code == 400
        assert "6 completions" in answer.json()["error"]["message"]


def test_a_full_queue_is_noticed_before_a_body_is_read() -> None:
    state = make_state(scheduler={"max_num_seqs": 1, "max_waiting_requests": 1}, max_waiting_requests=1)
    with serving(state) as server:
        server.runner.delay = 0.02
        body = {"prompt": "x", "max_tokens": 200}
        threads = [
            threading.Thread(
                target=httpx.post,
                args=(f"{server.url}/v1/completions",),
                kwargs={"json": body, "timeout": 30},
            )
            for _ in range(2)
        ]
        for number, thread in enumerate(threads):
            thread.start()
            while (stats := state.engine.stats()).num_running + stats.num_waiting < number + 1:
                time.sleep(0.005)
        not_json = {"content": b"{", "headers": {"content-type": "application/json"}}
        assert httpx.post(f"{server.url}/v1/completions", **not_json).status_code == 429
        assert httpx.post(f"{server.url}/v1/chat/completions", **not_json).status_code == 429
        state.engine.shutdown()
        for thread in threads:
            thread.join()
