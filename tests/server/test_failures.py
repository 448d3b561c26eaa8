"""What the engine cannot do is said where the client looks for it."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from server_stubs import StubRunner, make_state, serving


def failing_after(runner: StubRunner, steps: int) -> None:
    """Have the stub runner raise once, after that many more steps."""

    def before_step(scheduled) -> None:
        nonlocal steps
        steps -= 1
        if steps == -1:
            raise RuntimeError("the runner stumbled")

    runner.before_step = before_step


def test_a_failure_before_the_first_token_is_a_plain_500() -> None:
    with serving(make_state()) as server:
        for stream in (False, True):
            failing_after(server.runner, 0)
            answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "stream": stream})
            assert answer.status_code == 500
            assert "the runner stumbled" in answer.json()["error"]["message"]
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"}).status_code == 200
        server.wait_until_idle()


def test_a_failure_within_a_stream_is_an_event_before_the_usual_end() -> None:
    with serving(make_state()) as server:
        failing_after(server.runner, 3)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "stream": True})
        assert answer.status_code == 200
        *pieces, error, end = [line for line in answer.text.splitlines() if line]
        assert len(pieces) == 3
        assert "the runner stumbled" in json.loads(error.removeprefix("data: "))["error"]["message"]
        assert end == "data: [DONE]"

        failing_after(server.runner, 3)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as api:
            stream = api.completions.create(model="stub", prompt="x", stream=True)
            with pytest.raises(openai.APIError, match="the runner stumbled"):
                list(stream)


class DeadEngine:
    """Takes requests, dies of the first one and never calls back."""

    def __init__(self, engine) -> None:
        self._engine = engine
        self.failure: BaseException | None = None
        self.aborted: list[str] = []

    def add_request(self, request_id, prompt_token_ids, params, **how) -> None:
        self.failure = MemoryError("out of everything")

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def __getattr__(self, name: str):
        return getattr(self._engine, name)


def test_nobody_waits_for_a_dead_engine() -> None:
    state = make_state()
    state.engine = DeadEngine(state.engine)
    with serving(state) as server, httpx.Client(base_url=server.url, timeout=10) as http:
        assert http.get("/health").status_code == 200
        for stream, status in ((False, 500), (True, 503)):
            answer = http.post("/v1/completions", json={"prompt": "x", "stream": stream})
            assert answer.status_code == status
            assert "out of everything" in answer.json()["error"]["message"]
        assert http.get("/health").status_code == 503


def test_without_a_chat_template_chat_says_how_to_give_one() -> None:
    with serving(make_state(chat_template=None)) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": [{"role": "user"}]})
        assert answer.status_code == 400
        assert "--chat-template" in answer.json()["error"]["message"]
