"""What a server logs: times, load, reasons of refusals, requests and outputs, each where it is asked for."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_stubs import RunningServer, make_state, serving

from ozone.engine.outputs import EngineStats
from ozone.engine.sampling_params import SamplingParams
from ozone.errors import ConfigError
from ozone.server import refusals
from ozone.server.flags import ServerSettings
from ozone.server.load_log import load_line
from ozone.server.logs import LineFormatter, escaped, start_server_logging
from ozone.server.rate_limit import RateLimit
from ozone.server.request_log import log_request


@pytest.fixture
def loggers_as_before() -> Iterator[None]:
    names = ("ozone", "uvicorn", "uvicorn.access", "uvicorn.error", "asyncio")
    before = {
        name: (log := logging.getLogger(name), log.handlers, log.propagate, log.level) for name in names
    }
    yield
    for log, handlers, propagate, level in before.values():
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
        log.filters.clear()


def record(message: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": level, "levelname": "WARNING", **fields})


def test_a_line_has_a_time_and_stays_one_line() -> None:
    line = LineFormatter(times=True).format(record("a\x1b[2J\nb\u202e", msecs=7.0))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.007 ozone: a\\x1b\[2J\\nb\\u202e", line)
    assert " ozone: warning: x" in LineFormatter(times=True).format(record("x", logging.WARNING))


def test_a_traceback_keeps_its_lines() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        shown = LineFormatter(times=True).format(
            record("failed", exc_info=(type(error), error, error.__traceback__))
        )
    assert len(shown.splitlines()) > 2


def test_text_is_escaped_and_bounded() -> None:
    assert escaped("é\ud800\x00", 2) == "é\\ud800..."


def test_load_is_a_line_while_there_is_work_and_nothing_otherwise() -> None:
    before = EngineStats(prompt_tokens=100, generation_tokens=10, prefix_cache_queries=100)
    assert load_line(before, before, 10.0) is None
    now = EngineStats(
        num_running=3,
        num_waiting=1,
        kv_cache_usage=0.125,
        prompt_tokens=612,
        generation_tokens=330,
        prefix_cache_queries=300,
        prefix_cache_hits=50,
    )
    assert load_line(before, now, 10.0) == (
        "Avg prompt throughput: 51.2 tokens/s, Avg generation throughput: 32.0 tokens/s, "
        "Running: 3 reqs, Waiting: 1 reqs, KV cache usage: 12.5%, Prefix cache hit rate: 25.0%"
    )
    stuck = EngineStats(num_waiting=1)
    assert "Waiting: 1 reqs" in (load_line(stuck, stuck, 10.0) or "")
    assert "hit rate: -" in (load_line(stuck, stuck, 10.0) or "")


def test_a_server_writes_the_line_unless_it_is_switched_off(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ozone.server.load_log.INTERVAL_SECONDS", 0.01)
    for log_stats in (True, False):
        caplog.clear()
        with (
            caplog.at_level(logging.INFO, logger="ozone"),
            serving(make_state(settings=ServerSettings(port=0, log_stats=log_stats))) as server,
        ):
            server.runner.delay = 0.01
            httpx.post(
                f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 10, "ignore_eos": True}
            )
        assert ("Running: 1 reqs" in caplog.text) is log_stats


def test_a_refusal_is_logged_with_its_reason(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    refusals._limit = RateLimit(20, 2.0)
    with caplog.at_level(logging.INFO, logger="ozone"):
        http.get("/health?x", headers={"X-Forwarded-For": "1"})
        http.post("/v1/completions", json={"prompt": "a", "n": 0}, headers={"X-Request-Id": "mine\x7f"})
        http.get("/nothing%0a%1b[2J")
        http.post("/v1/completions", json={"model": "a\x1b[2J\nb" * 200, "prompt": "a"})
        http.post("/v1/completions", json={"prompt": "a", "max_tokens": 999, "stream": True})
    first, second, third, fourth = caplog.messages
    assert first.startswith("400 for POST /v1/completions from 127.0.0.1, request mine_: n: ")
    assert second.startswith("404 for GET /nothing\\n\\x1b[2J from 127.0.0.1: Nothing is served")
    assert third.startswith("404 for POST")
    assert "\x1b" not in third and "\n" not in third and len(third) < 1000
    assert fourth.startswith("400 for POST /v1/completions")


def test_only_so_many_refusals_are_logged() -> None:
    now = [0.0]
    limit = RateLimit(2, 0.5, clock=lambda: now[0])
    assert [limit.take() for _ in range(5)] == [0, 0, None, None, None]
    now[0] = 2.0
    assert [limit.take() for _ in range(2)] == [3, None]


def test_a_flood_of_refusals_says_how_many_were_left_out(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    refusals._limit = RateLimit(1, 0.0)
    with caplog.at_level(logging.INFO, logger="ozone"):
        for _ in range(5):
            http.get("/nothing")
        assert len(caplog.messages) == 1
        refusals._limit._left = 1.0
        http.get("/nothing")
    assert caplog.messages[1] == "4 more requests were refused"


def test_a_requests_line_is_short_whatever_its_parameters(caplog: pytest.LogCaptureFixture) -> None:
    params = SamplingParams(
        max_tokens=3, stop=["\x1b[2J" * 20] * 100, logit_bias=dict.fromkeys(range(100000), 1.0)
    )
    with caplog.at_level(logging.INFO, logger="ozone"):
        log_request("cmpl-x", [[1, 2]] * 2000, params)
    assert caplog.messages[0].startswith("cmpl-x: prompt tokens [2, 2, 2, 2, 2, 2, 2, 2, ...], ")
    assert "logit_bias=<100000 entries>" in caplog.messages[0]
    assert "max_tokens=3" in caplog.messages[0]
    assert len(caplog.messages[0]) < 2000 and "\x1b" not in caplog.messages[0]


@pytest.mark.parametrize("stream", [False, True])
def test_outputs_are_logged_where_they_are_asked_for(caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    settings = ServerSettings(port=0, log_outputs=True, max_log_len=3)
    body = {"prompt": "a", "max_tokens": 5, "temperature": 0, "request_id": "x", "stream": stream, "n": 2}
    body["logit_bias"] = {"81": 100}
    with caplog.at_level(logging.INFO, logger="ozone"), serving(make_state(settings=settings)) as server:
        httpx.post(f"{server.url}/v1/completions", json=body)
    lines = [line for line in caplog.messages if "output" in line]
    assert sorted(lines) == [
        "cmpl-x: output 0 of prompt 0: 'QQQ', finish reason length",
        "cmpl-x: output 1 of prompt 0: 'QQQ', finish reason length",
    ]


def test_outputs_are_not_logged_otherwise(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ozone"):
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 5})
    assert not caplog.messages


def test_a_config_file_sets_up_logging(tmp_path: Path, loggers_as_before: None) -> None:
    file = tmp_path / "log.json"
    log = tmp_path / "out.log"
    handler = {"class": "logging.FileHandler", "filename": str(log), "formatter": "f"}
    config = {"version": 1, "formatters": {"f": {"format": "X %(message)s"}}, "handlers": {"h": handler}}
    file.write_text(json.dumps({**config, "loggers": {"ozone": {"handlers": ["h"], "level": "WARNING"}}}))
    start_server_logging(ServerSettings(log_config_file=str(file)))
    logging.getLogger("ozone.server.run").warning("hello")
    logging.getLogger("ozone.server.run").info("not this")
    assert log.read_text() == "X hello\n"


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"{",
            b"[1]",
            b"{}",
            b'{"version": 2}',
            b"\xff",
            b"[" * 100_000,
            b'{"version": 1, "handlers": 1}',
        ),
        b'{"version": 1, "handlers": {"h": {"class": "no.such.Thing"}}}',
        b'{"version": 1, "loggers": {"ozone": {"level": "LOUD"}}}',
        b'{"version": 1, "handlers": {"h": {"class": "logging.FileHandler", "filename": "/no/such/x"}}}',
    ],
)
def test_a_config_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, loggers_as_before: None, content: bytes
) -> None:
    file = tmp_path / "log.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        start_server_logging(ServerSettings(log_config_file=str(file)))
    assert str(caught.value).startswith(f"--log-config-file {file}: ")
    assert "\n" not in str(caught.value)


def test_access_lines_of_some_paths_can_be_left_out(loggers_as_before: None) -> None:
    start_server_logging(ServerSettings(quiet_paths=("/health", "/metrics"), root_path="/llm"))
    kept = logging.getLogger("uvicorn.access").filter

    def line(path: str) -> logging.LogRecord:
        return record('%s - "%s %s HTTP/%s" %d', args=("127.0.0.1:1", "GET", path, "1.1", 200))

    for path in ("/health", "/metrics?x=1", "/llm/health"):
        assert not kept(line(path))
    assert kept(line("/v1/models")) and kept(line("/health/x"))


def test_what_any_client_can_cause_is_logged_only_so_often(
    loggers_as_before: None, capsys: pytest.CaptureFixture[str]
) -> None:
    start_server_logging(ServerSettings())
    for name in ("uvicorn.error", "asyncio"):
        for _ in range(1000):
            logging.getLogger(name).warning("Invalid HTTP %s received.", "request")
        lines = capsys.readouterr().err.splitlines()
        assert 10 <= len(lines) < 20
        assert lines[0].endswith(" ozone: warning: Invalid HTTP request received.")
