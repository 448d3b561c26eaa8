"""Flags and failures of the programs that benchmarks start."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from ozone.bench.child import child_failure, engine_words
from ozone.bench.resident import resident_bytes
from ozone.errors import OzoneError


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (["M", "--runs", "3", "-O2"], ["M", "-O2"]),
        (["--runs=3", "--dtype", "float32"], ["--dtype", "float32"]),
        (["--json", "M"], ["M"]),
        (["--num_runs", "4", "-cc.mode=NONE"], ["-cc.mode=NONE"]),
        (["-cc.mode", "NONE", "--num-runs=4", "--seed", "1"], ["-cc.mode", "NONE", "--seed", "1"]),
    ],
)
def test_the_engine_gets_all_words_but_the_benchmarks_own(words: list[str], rest: list[str]) -> None:
    parser = argparse.ArgumentParser()
    own = [
        parser.add_argument("--runs", "--num-runs", type=int),
        parser.add_argument("--json", action="store_true"),
    ]
    assert engine_words(words, own) == rest


def test_a_childs_mistake_is_the_users() -> None:
    error = child_failure("program", 2, "ready\nozone: error: no such model\n")
    assert isinstance(error, OzoneError)
    assert str(error) == "no such model"


def test_a_childs_bug_keeps_its_traceback() -> None:
    error = child_failure("program", 1, "Traceback ...\nZeroDivisionError: x\n")
    assert not isinstance(error, OzoneError)
    assert "ended with code 1" in str(error)
    assert "ZeroDivisionError" in str(error)


def test_resident_memory_is_read_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    text = "Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\nRssAnon:\t 24 kB\nRssFile:\t 1000 kB\n"
    (tmp_path / "7/status").write_text(text)
    expected = {"peak": 2048 << 10, "now": 1024 << 10, "anonymous": 24 << 10, "files": 1000 << 10}
    assert resident_bytes(7, tmp_path) == expected
    assert resident_bytes(8, tmp_path) == {}
    assert resident_bytes()["peak"] > 1e6
