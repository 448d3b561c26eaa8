"""`ozone compile`: fills the cache that a later start loads from, and says what it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ozone.native import library

pytestmark = pytest.mark.skipif(library() is None, reason="programs need the native library")

FLAGS = ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ozone.cli.main", *words, *FLAGS],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | environment,
        check=False,
    )


def compile_json(model: Path, cache: Path) -> dict[str, Any]:
    done = run("compile", str(model), "-O1", "--json", f"-cc.cache_dir={cache}")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_what_is_compiled_once_is_there_for_a_later_start(tiny_model: Path, tmp_path: Path) -> None:
    first, second = (compile_json(tiny_model, tmp_path) for _ in range(2))
    assert (first["compiled"], second["compiled"]) == (True, False)
    assert first["key"] == second["key"]
    assert Path(first["file"]).stat().st_size == first["size_bytes"]
    assert {"trace", "rewrite", "lower"} <= set(first["phase_seconds"])
    assert "trace" not in second["phase_seconds"]
    assert second["ranges"] == first["ranges"]  # what passes have done is kept too
    (made,) = first["ranges"]
    assert {report["flag"]: report["places"] for report in made["passes"]}["fuse_rope_kvcache"] == 2
    assert (made["first"], made["pieces"]) == (1, 5)  # two layers: attention twice, and what lies around it
    generated = run(
        "generate", "The cat", "--model", str(tiny_model), "-O1", "-v", "--max-tokens", "4",
        f"-cc.cache_dir={tmp_path}",
    )  # fmt: skip
    assert generated.returncode == 0, generated.stderr
    assert "load programs" in generated.stderr
    assert "trace" not in generated.stderr


def test_the_text_names_what_was_made(tiny_model: Path, tmp_path: Path) -> None:
    done = run("compile", str(tiny_model), "-O1", OZONE_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    made, ranges, kernels, file = done.stdout.splitlines()
    assert kernels.startswith("kernels: measured ")
    assert made.startswith(f"{tiny_model}: compiled (trace ")
    assert "5 pieces" in ranges
    assert "fuse_rope_kvcache 2" in ranges
    assert str(tmp_path / "programs") in file


def test_a_dump_is_named(tiny_model: Path, tmp_path: Path) -> None:
    words = [
        "compile",
        str(tiny_model),
        "-O1",
        f"-cc.cache_dir={tmp_path}",
        f"-cc.debug_dump_path={tmp_path}/dump",
    ]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"debug dump: {tmp_path}/dump/index.html"
    assert (tmp_path / "dump" / "index.html").is_file()


@pytest.mark.parametrize("path", ["/proc/none", "{model}/config.json", "/dev/null/x"])
def test_a_dump_that_cannot_be_written_stops_the_start_in_one_line(path: str, tiny_model: Path) -> None:
    done = run("compile", str(tiny_model), "-O1", f"-cc.debug_dump_path={path.format(model=tiny_model)}")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("ozone: error: -cc.debug_dump_path='") and "can be written" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["-O0"], {}, "these settings (-O0, mode NONE, custom_ops ['none']) make no programs to keep"),
        (["-O1"], {"OZONE_DISABLE_COMPILE_CACHE": "1"}, "while OZONE_DISABLE_COMPILE_CACHE is set"),
        (["-O1", "-cc.cache_dir=/proc/none"], {}, "nothing was kept"),
    ],
)
def test_where_nothing_is_kept_it_fails(
    words: list[str], environment: dict[str, str], message: str, tiny_model: Path
) -> None:
    done = run("compile", str(tiny_model), *words, **environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("ozone: error: ")
    assert message in done.stderr.splitlines()[-1]


def test_generated_code_is_compiled_ahead_too(tiny_model: Path, tmp_path: Path) -> None:
    words = ["compile", str(tiny_model), "-O1", "-cc.custom_ops=none", "-cc.backend=eager"]
    first, second = (run(*words, "--json", OZONE_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    made, found = json.loads(first.stdout), json.loads(second.stdout)
    assert (made["compiled"], found["compiled"]) == (True, False)
    assert made["ranges"] == found["ranges"]
    (of,) = made["ranges"]
    assert of["calls"] > 0
    assert of["libraries"] == 0
    listed = subprocess.run(
        [sys.executable, "-m", "ozone.cli.main", "cache", "ls", f"-cc.cache_dir={tmp_path}", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (row,) = (row for row in json.loads(listed.stdout)["kept"] if row["kind"] == "steps")
    assert (row["key"], row["model"], row["level"]) == (made["key"], str(tiny_model), 1)
    assert f"{of['calls']} calls" in row["holds"]
