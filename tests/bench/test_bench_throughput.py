"""`ozone bench throughput` on a tiny model, and the requests it submits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ozone.bench.engine_load import greedy, run_requests
from ozone.bench.throughput import main
from ozone.engine.outputs import RequestDelta
from ozone.errors import ConfigError, QueueFullError, RequestError

_FLAGS = ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000", "--json"]


class StubEngine:
    """Answers each request with two tokens, from a thread; its queue holds `room` requests."""

    def __init__(self, room: int = 100, last: str = "length") -> None:
        self.room, self.last = room, last
        self.max_model_len = 8
        self.aborted: list[str] = []
        self.accepted = self.most = self.held = 0
        self._lock = threading.Lock()

    def add_request(
        self, request_id: str, prompt: list[int], params: object, *, on_delta: Callable[[RequestDelta], None]
    ) -> None:
        with self._lock:
            if self.held >= self.room:
                raise QueueFullError("full")
            self.held += 1
            self.accepted += 1
            self.most = max(self.most, self.held)
        threading.Thread(target=self._answer, args=(request_id, on_delta)).start()

    def _answer(self, request_id: str, on_delta: Callable[[RequestDelta], None]) -> None:
        on_delta(RequestDelta(request_id, token_ids=[1]))
        with self._lock:
            self.held -= 1
        on_delta(RequestDelta(request_id, token_ids=[2], finish_reason=self.last, error="broken"))

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)


def test_every_request_is_sent_through_a_queue_that_is_too_small() -> None:
    engine: Any = StubEngine(room=2)
    arrived: list[int] = []
    times = run_requests(engine, [[1, 2, 3]] * 9, greedy(2), arrived=arrived.append)
    assert len(times) == engine.accepted == 9
    assert sum(arrived) == 18
    assert engine.most <= 2
    assert all(request.output_tokens == 2 and request.prompt_tokens == 3 for request in times)
    assert all(request.latency >= request.time_to_first_token >= 0 for request in times)


def test_a_queue_without_room_for_anything_is_an_error() -> None:
    engine: Any = StubEngine(room=0)
    with pytest.raises(QueueFullError):
        run_requests(engine, [[1]], greedy(2))


def test_a_request_that_fails_ends_the_run_and_the_others() -> None:
    engine: Any = StubEngine(last="error")
    with pytest.raises(RequestError, match="failed: broken"):
        run_requests(engine, [[1]] * 3, greedy(2))
    assert len(engine.aborted) == 3


def test_a_run_reports_rates_beside_the_machines_peak(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--num-prompts", "6", "--input-len", "12", "--output-len", "5"]
    assert main([str(tiny_model), *sizes, *_FLAGS]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    results = report["results"]
    assert (results["prompt_tokens"], results["output_tokens"]) == (72, 30)
    seconds = results["elapsed_seconds"]
    assert results["requests_per_s"] == pytest.approx(6 / seconds)
    assert results["output_tokens_per_s"] == pytest.approx(30 / seconds)
    assert results["prompt_tokens_per_s"] == pytest.approx(72 / seconds)
    assert report["machine"]["peak"]["method"] == "torch product"
    iterations = results["iterations"]
    assert iterations["count"] == 3
    assert iterations["min"] <= seconds <= iterations["max"]
    assert "output tokens" in streams.err


def test_iterations_reuse_memory_unless_a_prefix_cache_is_asked_for(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[bool] = []
    for flags in ([], ["--enable-prefix-caching"]):
        once = ["--num-iters", "1", "--num-iters-warmup", "0", "--num-prompts", "1", "--output-len", "1"]
        assert main([str(tiny_model), *once, *flags, *_FLAGS]) == 0
        seen.append(json.loads(capsys.readouterr().out)["model"]["enable_prefix_caching"])
    assert seen == [False, True]


def test_prompts_come_from_a_file(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"The cat sat"\n{"prompt_token_ids": [5, 6, 7]}\n')
    assert (
        main([str(tiny_model), "--dataset", str(path), "--num-prompts", "3", "--output-len", "2", *_FLAGS])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["results"]["output_tokens"] == 6
    assert report["parameters"]["dataset_path"] == str(path)
    assert report["parameters"]["input_len"] is None


def test_a_missing_file_is_found_before_the_model_loads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        main(["--dataset-path", str(tmp_path / "none.txt"), "no-such-model"])


def test_an_answer_that_would_be_cut_short_is_refused() -> None:
    engine: Any = StubEngine()
    run_requests(engine, [[1] * 6], greedy(2))
    with pytest.raises(RequestError, match="6 prompt tokens and 3 to generate are 9; the context holds 8"):
        run_requests(engine, [[1] * 6], greedy(3))
    assert engine.accepted == 1


def test_a_prompt_that_does_not_fit_is_one_line(tiny_model: Path) -> None:
    with pytest.raises(RequestError, match="300 prompt tokens"):
        main([str(tiny_model), "--input-len", "300", "--num-prompts", "1", *_FLAGS])
