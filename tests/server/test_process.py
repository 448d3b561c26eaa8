"""The server as a process: its port, its signals, its exit code, and what it never imports."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

PROGRAM = Path(__file__).with_name("serve_stub.py")


class Process:
    def __init__(self, *arguments: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.popen.stderr.readline()
        found = re.fullmatch(r"Serving stub at (http://127\.0\.0\.1:\d+)/v1\n", line)
        assert found, line + self.popen.stderr.read()
        self.url = found[1]

    def stream_in_background(self, max_tokens: int) -> tuple[threading.Thread, list[str]]:
        """Start to stream an answer; returns once its first event is there."""
        lines: list[str] = []
        begun = threading.Event()

        def read() -> None:
            body = {"prompt": "x", "max_tokens": max_tokens, "stream": True}
            with (
                contextlib.suppress(httpx.HTTPError),
                httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=20) as answer,
            ):
                for line in answer.iter_lines():
                    lines.extend([line] if line else [])
                    begun.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert begun.wait(10)
        return thread, lines


@pytest.fixture
def start() -> Iterator[type[Process]]:
    started: list[Process] = []

    def make(*arguments: str) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield make
    for process in started:
        process.popen.kill()
        process.popen.communicate()


def test_serving_needs_no_torch(start) -> None:
    process = start("0", "--port", "0")
    with httpx.Client(base_url=process.url) as http:
        assert http.post("/v1/completions", json={"prompt": "x"}).status_code == 200
        messages = [{"role": "user", "content": "x"}]
        assert http.post("/v1/chat/completions", json={"messages": messages}).status_code == 200
        for path in ("/metrics", "/startup", "/openapi.json", "/docs"):
            assert http.get(path).status_code == 200
    process.popen.send_signal(signal.SIGTERM)
    output, _ = process.popen.communicate(timeout=10)
    assert output == "heavy modules: []\n"
    assert process.popen.returncode == 0


def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones(start) -> None:
    process = start("0.02", "--port", "0")
    thread, lines = process.stream_in_background(max_tokens=60)
    process.popen.send_signal(signal.SIGTERM)
    assert "may go on" in process.popen.stderr.readline()
    assert httpx.get(f"{process.url}/health").status_code == 503
    refused = httpx.post(f"{process.url}/v1/completions", json={"prompt": "x"})
    assert refused.status_code == 503
    assert "shutting down" in refused.json()["error"]["message"]
    thread.join()
    assert len(lines) == 61
    assert '"finish_reason":"length"' in lines[-2]
    assert lines[-1] == "data: [DONE]"
    assert process.popen.wait(timeout=5) == 0


def test_requests_that_outlast_the_shutdown_timeout_are_told(start) -> None:
    process = start("0.02", "--port", "0", "--shutdown-timeout", "0.3")
    thread, lines = process.stream_in_background(max_tokens=3000)
    begun = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(timeout=5) == 0
    assert time.monotonic() - begun > 0.3
    thread.join()
    assert "ended this request" in lines[-2]
    assert lines[-1] == "data: [DONE]"


def test_a_second_signal_ends_at_once(start) -> None:
    process = start("0.02", "--port", "0")
    thread, _ = process.stream_in_background(max_tokens=3000)
    process.popen.send_signal(signal.SIGINT)
    process.popen.stderr.readline()
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(timeout=2) == -signal.SIGINT
    thread.join()


def test_a_port_in_use_is_one_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "0", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.returncode == 2
    assert done.stderr == f"ozone: error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
