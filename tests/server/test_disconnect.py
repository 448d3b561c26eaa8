"""A client that leaves takes its request with it; the others notice nothing."""

from __future__ import annotations

import asyncio
import random
import time

import httpx
import pytest
from server_stubs import RunningServer, greedy_text, make_state, serving


def wait_for_running(server: RunningServer, count: int) -> None:
    deadline = time.monotonic() + 5
    while server.state.engine.stats().num_running != count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def slow_server():
    with serving(make_state(max_model_len=4096)) as server:
        server.runner.delay = 0.01
        yield server


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_aborts_the_request(slow_server: RunningServer, path: str, stream: bool) -> None:
    prompt = {"prompt": ["x", "y"]} if path == "/v1/completions" else {"messages": [{"role": "user"}]}
    body = {**prompt, "max_tokens": 3000, "stream": stream, "n": 2}

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=slow_server.url) as client:
            task = asyncio.create_task(client.post(path, json=body))
            await asyncio.to_thread(wait_for_running, slow_server, 4 if path == "/v1/completions" else 2)
            task.cancel()

    asyncio.run(leave())
    started = time.monotonic()
    slow_server.wait_until_idle()
    assert time.monotonic() - started < 2, "the request ran on"


def test_a_client_that_leaves_before_its_prompt_is_computed_is_aborted(slow_server: RunningServer) -> None:
    slow_server.runner.delay = 0.5
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow_server.url}/v1/completions", json={"prompt": "x", "max_tokens": 99}, timeout=0.2)
    slow_server.wait_until_idle(3)


async def crowd(server: RunningServer, clients: int, rng: random.Random) -> int:
    """Stream to many clients at once, a third of which leave; returns how many stayed."""
    stayed = 0

    async def one(client: httpx.AsyncClient, number: int, leave_after: int | None) -> None:
        nonlocal stayed
        body = {"prompt": f"prompt {number}", "max_tokens": 20, "temperature": 0, "stream": True}
        lines = []
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                lines += [line] if line else []
                if len(lines) == leave_after:
                    return
        assert lines[-1] == "data: [DONE]"
        chunks = [httpx.Response(200, text=line[6:]).json() for line in lines[:-1]]
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert text == greedy_text(f"prompt {number}", 20)
        stayed += 1

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        leave = [rng.randrange(1, 20) if rng.random() < 1 / 3 else None for _ in range(clients)]
        await asyncio.gather(*(one(client, number, leave[number]) for number in range(clients)))
    return stayed


def test_two_hundred_streams_of_which_a_third_are_left() -> None:
    with serving(make_state()) as server:
        stayed = asyncio.run(crowd(server, 200, random.Random(5)))
        assert 100 < stayed < 170
        server.wait_until_idle()
