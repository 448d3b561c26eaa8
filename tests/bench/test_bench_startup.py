"""`ozone bench startup` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ozone.bench.startup import Start, main
from ozone.errors import ConfigError, OzoneError
from ozone.native import library

_FLAGS = ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000"]


def test_phases_of_one_name_add_up() -> None:
    phases = [
        {"name": "weights", "begin": 0, "seconds": 0.5},
        {"name": "weights", "begin": 1, "seconds": 0.25},
    ]
    text = json.dumps(
        {
            "first_token_seconds": 2.0,
            "startup": {"total_seconds": 1.5, "phases": phases},
            "peak_resident_bytes": None,
        }
    )
    assert Start.parse(text) == Start(2.0, 1.5, {"weights": 0.75}, None)


def test_levels_are_started_in_turn_and_compared(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--levels", "0,O2", "--runs", "1", "--runs-warmup", "0"]
    assert main([str(tiny_model), *counts, "--json", *_FLAGS]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert list(report["results"]) == ["O0", "O2"]
    assert report["machine"]["import_torch_seconds"]["median"] > 0
    for start in report["results"].values():
        assert start["first_token_seconds"]["median"] > start["ready_seconds"]["median"] > 0
        assert {"import torch", "weights", "tokenizer"} <= set(start["phase_seconds"])
        assert start["peak_resident_bytes"] > 1e7
    assert report["results"]["O0"]["ratio_to_first_level"] == 1.0
    assert "times -O0" in streams.err


@pytest.mark.skipif(library() is None, reason="programs need the native library")
def test_cold_starts_compile_and_others_load(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = ["--levels", "1", "--runs", "1", "--json", *_FLAGS]
    phases = []
    for words in (["--cold", "--runs-warmup", "0"], ["--runs-warmup", "1"]):
        assert main([str(tiny_model), *counts, *words]) == 0
        report = json.loads(capsys.readouterr().out)
        phases.append(report["results"]["O1"]["phase_seconds"])
    assert {"trace", "rewrite", "lower"} <= set(phases[0])
    assert "trace" not in phases[1]
    assert phases[1]["load programs"] > 0


def test_a_mistake_in_the_child_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OzoneError, match="none"):
        main([str(tmp_path / "none"), "--levels", "0", "--runs", "1", "--runs-warmup", "0"])


def test_levels_come_from_one_flag_only() -> None:
    with pytest.raises(ConfigError, match="--levels"):
        main(["-O1"])


@pytest.mark.parametrize("levels", ["4", "", "0;1", "fast"])
def test_a_level_that_is_none_is_one_line(levels: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([f"--levels={levels}"])
    assert caught.value.code == 2
    assert "expected some of 0,1,2,3" in capsys.readouterr().err
