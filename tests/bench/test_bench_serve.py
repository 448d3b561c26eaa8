"""`ozone bench serve`: against a stub on loopback, and with a server of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stub_openai_server import StubServer

from ozone.bench.serve import main
from ozone.bench.serve_client import Outcome
from ozone.errors import ConfigError, OzoneError


def _run(
    server: StubServer, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0
) -> dict[str, Any]:
    sizes = ["--num-prompts", "4", "--input-len", "6", "--output-len", "3"]
    assert main(["--base-url", server.base_url, *sizes, *words, "--json"]) == code
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_an_outcome_knows_what_its_client_saw() -> None:
    outcome = Outcome(sent=1.0, chunks=[1.5, 1.75, 2.5], finished=2.75, output_tokens=3)
    assert outcome.time_to_first_token == 0.5
    assert outcome.time_per_output_token == 0.5
    assert outcome.inter_token_latencies == [0.25, 0.75]
    assert outcome.latency == 1.75


def test_a_single_token_has_no_time_per_token() -> None:
    assert Outcome(sent=1.0, chunks=[1.5], finished=1.5, output_tokens=1).time_per_output_token is None


def test_a_load_of_completions_is_measured(
    stub_server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _run(stub_server, capsys)
    results = report["results"]
    assert (results["completed"], results["failed"], results["failures"]) == (4, 0, {})
    assert (results["prompt_tokens"], results["output_tokens"]) == (20, 12)
    assert results["inter_token_latency_seconds"]["count"] == 8
    for name in ("time_to_first_token", "time_per_output_token", "end_to_end_latency"):
        assert results[f"{name}_seconds"]["count"] == 4
    assert report["server"] == {"base_url": stub_server.base_url, "model": "stub"}
    assert report["parameters"]["request_rate"] is None
    assert 0 < results["client_cpu_share"] < 2


def test_random_prompts_are_token_ids_of_the_servers_own_tokenizer(
    stub_server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(stub_server, capsys)
    trial, *bodies = stub_server.asked("/v1/completions")
    assert len(bodies) == 4
    assert all(len(body["prompt"]) == 6 and set(body["prompt"]) <= {11, 12, 13, 14} for body in bodies)
    assert all(body["max_tokens"] == 3 and body["ignore_eos"] and body["stream"] for body in bodies)
    assert trial["prompt"] not in [body["prompt"] for body in bodies]


def test_a_server_without_tokenize_gets_words(
    stub_server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    stub_server.tokenize = False
    _run(stub_server, capsys)
    assert {len(body["prompt"].split()) for body in stub_server.asked("/v1/completions")} == {6}


def test_a_chat_sends_messages_and_reads_deltas(
    stub_server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in "ab"]
    stub_server.events = [json.dumps(event) for event in (role, *chunks)] + ["[DONE]"]
    report = _run(stub_server, capsys, "--endpoint", "/v1/chat/completions")
    assert report["results"]["output_tokens"] == 8
    assert report["results"]["inter_token_latency_seconds"]["count"] == 4
    messages = stub_server.asked("/v1/chat/completions")[1]["messages"]
    assert messages[0]["role"] == "user"
    assert len(messages[0]["content"].split()) == 6


def test_failures_are_counted_with_their_reasons(
    stub_server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    stub_server.refuse = 429
    results = _run(stub_server, capsys, code=1)["results"]
    assert (results["completed"], results["failed"]) == (0, 4)
    assert results["failures"] == {"429: the queue is full": 4}
    assert results["time_to_first_token_seconds"] is None


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (StubServer.stream(["a"], None, done=False), "the stream broke off"),
        ([json.dumps({"error": {"message": "out of blocks"}})], "out of blocks"),
        (["{"], "the stream holds what is not JSON"),
    ],
)
def test_a_broken_stream_is_a_failure(stub_server: StubServer, events: list[str], reason: str) -> None:
    stub_server.events = events
    with pytest.raises(OzoneError, match=f"a first request to .* failed: {reason}"):
        main(["--base-url", stub_server.base_url, "--num-prompts", "1"])


def test_no_more_requests_are_under_way_than_allowed(
    stub_server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(stub_server, capsys, "--num-prompts", "12", "--max-concurrency", "1", "--request-rate", "500")
    assert stub_server.most_at_work == 1
    assert len(stub_server.asked("/v1/completions")) == 13


def test_the_seed_decides_the_prompts(stub_server: StubServer, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("1", "1", "2"):
        _run(stub_server, capsys, "--seed", seed, "--max-concurrency", "1")
    prompts = [body["prompt"] for body in stub_server.asked("/v1/completions")]
    assert prompts[:5] == prompts[5:10]
    assert prompts[:5] != prompts[10:]


def test_model_and_key_are_sent(stub_server: StubServer, capsys: pytest.CaptureFixture[str]) -> None:
    _run(stub_server, capsys, "--model", "other")
    assert {body["model"] for body in stub_server.asked("/v1/completions")} == {"other"}
    _run(stub_server, capsys, "--api-key", "secret")
    assert stub_server.keys[-1] == "Bearer secret"


def test_a_url_may_be_given_as_host_and_port_or_with_v1(
    stub_server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--num-prompts", "1", "--json"]
    assert main(["--port", str(stub_server.port), *words]) == 0
    assert main(["--base-url", stub_server.base_url + "/v1/", *words]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["server"]["base_url"] for report in reports] == [stub_server.base_url] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base-url", "http://127.0.0.1:1", "--port", "2"], "named twice"),
        (["--base-url", "127.0.0.1:1"], "must start with http"),
        (["--port", "0"], "from 1 to 65535"),
        (
            ["--port", "1", "--seed", "1", "--dtype", "float32"],
            "its own settings; leave out --dtype$",
        ),
    ],
)
def test_a_contradiction_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(words)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "fast"])
def test_a_rate_that_cannot_be_is_one_line(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--request-rate={rate}"])
    assert "requests a second, more than 0, or inf" in capsys.readouterr().err


def test_nobody_at_the_url_is_one_line(stub_server: StubServer) -> None:
    url = stub_server.base_url
    stub_server.close()
    with pytest.raises(OzoneError, match=f"no server answers at {url}.*ozone serve"):
        main(["--base-url", url])


def test_a_chat_takes_no_token_ids(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("[1, 2]\n")
    with pytest.raises(ConfigError, match="a chat takes texts"):
        main(["--port", "9", "--endpoint", "/v1/chat/completions", "--dataset-path", str(path)])


def test_without_a_url_a_server_is_started_and_stopped(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--num-prompts", "3", "--input-len", "8", "--output-len", "4"]
    engine = ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000", "--served-model-name", "tiny"]
    assert main([str(tiny_model), *sizes, *engine, "-O0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["server"]["model"] == "tiny"
    assert report["results"]["completed"] == 3
    assert report["results"]["output_tokens"] == 12
    assert report["results"]["prompt_tokens"] == 24


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(OzoneError, match="none"):
        main([str(tmp_path / "none"), "--num-prompts", "1"])
