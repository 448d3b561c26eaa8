"""One served stub for the tests that leave no trace on it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from server_stubs import RunningServer, make_state, serving
from stub_process import Process


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with serving(make_state()) as running:
        yield running


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture
def api(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def start() -> Iterator[type[Process]]:
    started: list[Process] = []

    def make(*arguments: str, **how: int) -> Process:
        started.append(Process(*arguments, **how))
        return started[-1]

    yield make
    for process in started:
        process.popen.kill()
        process.popen.communicate()
