"""`ozone bench latency` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ozone.bench.engine_load import RequestTimes
from ozone.bench.latency import Iteration, main
from ozone.bench.machine import Bandwidth
from ozone.bench.model_cost import head_parameters, linear_parameters
from ozone.bench.statistics import Summary
from ozone.errors import ConfigError, ModelFileError
from ozone.weights.model_files import open_model

_FLAGS = ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000", "--dtype", "float32"]

_READ = Bandwidth(Summary.of([40.0]), 1, 1, "none")


def test_an_iteration_times_the_batch_and_counts_the_steps_of_decoding() -> None:
    first = RequestTimes(8, submitted=10.0, arrivals=[11.0, 12.0, 13.0, 14.0])
    second = RequestTimes(8, submitted=10.5, arrivals=[12.0, 13.0, 14.0, 15.0])
    iteration = Iteration.of([first, second], _READ)
    assert iteration.latency == 5.0
    assert iteration.time_to_first_token == 2.0
    assert iteration.steps_per_s == 1.0


def test_one_token_leaves_nothing_to_say_of_decoding() -> None:
    iteration = Iteration.of([RequestTimes(8, submitted=1.0, arrivals=[2.0])], _READ)
    assert iteration.steps_per_s is None


def test_a_request_knows_its_times() -> None:
    request = RequestTimes(8, submitted=1.0, arrivals=[1.5, 2.0, 2.0, 2.5])
    assert request.output_tokens == 4
    assert request.time_to_first_token == 0.5
    assert request.latency == 1.5


def test_a_run_reports_latency_rate_and_share_of_the_read_bandwidth(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--input-len", "16", "--output-len", "4", "--batch-size", "2"]
    repeats = ["--num-iters", "3", "--num-iters-warmup", "1"]
    assert main([str(tiny_model), *sizes, *repeats, "-O0", "--json", *_FLAGS]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert report["bench"] == "latency"
    assert report["parameters"] == {
        "input_len": 16,
        "output_len": 4,
        "batch_size": 2,
        "num_iters": 3,
        "num_iters_warmup": 1,
    }
    assert report["model"]["dtype"] == "float32"
    assert report["model"]["optimization_level"] == 0
    results = report["results"]
    for name in (
        "latency_seconds",
        "time_to_first_token_seconds",
        "decode_tokens_per_s",
        "weight_read_share",
    ):
        assert results[name]["count"] == 3
        assert results[name]["min"] > 0
    assert results["time_to_first_token_seconds"]["max"] < results["latency_seconds"]["max"]
    config = open_model(str(tiny_model), config_only=True).config
    assert results["weight_bytes_per_step"] >= 4 * (linear_parameters(config) + head_parameters(config))
    assert report["machine"]["read_bandwidth_gb_per_s"]["count"] == 3
    assert "reading the weights allows" in streams.err


def test_a_single_token_is_measured_without_a_decode_rate(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--output-len", "1", "--num-iters", "1", "--num-iters-warmup", "0"]
    assert main([str(tiny_model), *counts, "--json", *_FLAGS]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["decode_tokens_per_s"] is None
    assert results["latency_seconds"]["count"] == 1


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="none"):
        main([str(tmp_path / "none")])


def test_a_bad_value_is_found_before_the_model_loads() -> None:
    with pytest.raises(ConfigError, match="--dtype"):
        main(["--dtype", "float17"])


@pytest.mark.parametrize(
    "flag", ["--input-len=0", "--num-iters=0", "--batch-size=x", "--num-iters-warmup=-1"]
)
def test_a_count_that_cannot_be_is_one_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([flag])
    assert caught.value.code == 2
    assert flag.partition("=")[0] in capsys.readouterr().err
