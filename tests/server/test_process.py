"""The server as a process: its port, its signals, its exit code, and what it never imports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from server_stubs import make_state, serving
from stub_process import PROGRAM

from ozone.server.connections import Connection
from ozone.server.flags import ServerSettings
from ozone.server.listener import bind, server_url


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
    assert process.popen.wait(timeout=20) == 0


def test_requests_that_outlast_the_shutdown_timeout_are_told(start) -> None:
    process = start("0.02", "--port", "0", "--shutdown-timeout", "0.3")
    thread, lines = process.stream_in_background(max_tokens=3000)
    begun = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(timeout=20) == 0
    assert time.monotonic() - begun > 0.3
    thread.join()
    assert "ended this request" in lines[-2]
    assert lines[-1] == "data: [DONE]"


def test_a_drain_that_fails_still_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def drain(timeout: float | None) -> bool:
        raise OverflowError("timestamp too large")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with serving(make_state()) as server:
        monkeypatch.setattr(server.state.engine, "drain", drain)
        server.server.drain()
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_a_second_signal_ends_at_once(start) -> None:
    process = start("0.02", "--port", "0")
    thread, _ = process.stream_in_background(max_tokens=3000)
    process.popen.send_signal(signal.SIGINT)
    process.popen.stderr.readline()
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(timeout=2) == -signal.SIGINT
    thread.join()


def test_a_request_that_comes_while_the_model_loads_is_answered_when_it_is_ready() -> None:
    settings = ServerSettings(port=0)
    listener = bind(settings)
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(httpx.get, f"{server_url(settings, listener)}/health", timeout=20)
        time.sleep(0.3)  # in which a model might be loaded
        assert not early.done()
        with serving(make_state(settings=settings), listener):
            assert early.result(20).status_code == 200


def test_small_pieces_of_an_answer_are_sent_at_once() -> None:
    """Without TCP_NODELAY a stream on a connection that was kept alive begins 40 ms late."""
    seen = []

    class Watched(Connection):
        def connection_made(self, transport) -> None:
            connection = transport.get_extra_info("socket")
            seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().connection_made(transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ozone.server.run.Connection", Watched)
        with serving(make_state()) as running:
            assert httpx.get(f"{running.url}/health").status_code == 200
    assert seen == [1]


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


def test_logs_go_to_stderr_and_hold_no_text_of_a_request(start) -> None:
    process = start("0", "--port", "0", "--uvicorn-log-level", "info", "--enable-log-requests")
    httpx.post(f"{process.url}/v1/completions", json={"prompt": "geheim", "max_tokens": 3})
    process.popen.send_signal(signal.SIGTERM)
    output, log = process.popen.communicate(timeout=20)
    assert "POST /v1/completions" in log
    assert "prompt tokens [6]" in log
    assert "max_tokens=3" in log
    assert "geheim" not in log + output
    assert output == "heavy modules: []\n"
