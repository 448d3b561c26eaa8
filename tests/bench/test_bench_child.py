"""Flags and failures of the programs that benchmarks start."""

from __future__ import annotations

import argparse

import pytest

from ozone.bench.child import child_failure, engine_words
from ozone.bench.startup_child import peak_resident_bytes
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


def test_peak_memory_is_read_in_bytes(tmp_path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n")
    assert peak_resident_bytes(status) == 2048 * 1024
    assert peak_resident_bytes(tmp_path / "none") is None
    assert peak_resident_bytes() > 1e6
