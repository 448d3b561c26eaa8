"""`ozone cache`: what it lists, removes and prints, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ozone.cli import cache
from ozone.compilation.artifact_file import pack
from ozone.compilation.artifact_store import ArtifactStore
from ozone.engine.tokenizer import cache as tokenizers
from ozone.errors import ConfigError

KEYS = ["a" * 64, "ab" * 32]
HEADER = {
    "label": {"model": "org/model", "level": 2, "dtype": "bfloat16", "made": 1.0},
    "key_parts": {"isa": "avx2"},
    "ranges": [{"first": 1, "last": 64, "launches": [3, 1, 4]}],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two artifacts, one of them damaged, and a tokenizer."""
    tokenizers.write(tmp_path / "tokenizers", "123abc", b"{}")
    with ArtifactStore(tmp_path) as store:
        store.write(KEYS[0], pack(HEADER, [bytes(1500)]))
        store.write(KEYS[1], pack(HEADER, [bytes(1500)])[:-1])
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], directory: Path, *words: str) -> str:
    assert cache.main([*words, f"-cc.cache_dir={directory}"]) == 0
    return capsys.readouterr().out


def test_the_table_says_what_is_kept_and_for_whom(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    before = [path.stat().st_mtime_ns for path in (directory / "programs").iterdir()]
    heading, *rows, total = run(capsys, directory, "ls").splitlines()
    assert heading.split() == ["key", "model", "level", "type", "size", "used", "holds"]
    (whole,) = (row for row in rows if row.startswith("a" * 12))
    for text in (
        "org/model",
        "-O2",
        "bfloat16, avx2",
        "2 kB",
        "just now",
        "1-64 tokens: 3 pieces, 8 launches",
    ):
        assert text in whole
    assert any(row.startswith("abab") and "damaged" in row for row in rows)
    assert any(row.startswith("123abc") and "tokenizer" in row for row in rows)
    assert total.startswith(f"3 in {directory}, ")
    assert [path.stat().st_mtime_ns for path in (directory / "programs").iterdir()] == before


def test_json_has_the_same(capsys: pytest.CaptureFixture[str], directory: Path) -> None:
    listed: dict[str, Any] = json.loads(run(capsys, directory, "ls", "--json"))
    assert listed["path"] == str(directory)
    rows = {row["key"]: row for row in listed["kept"]}
    assert set(rows) == {*KEYS, "123abc"}
    whole = rows[KEYS[0]]
    assert (whole["kind"], whole["model"], whole["level"], whole["made"]) == ("programs", "org/model", 2, 1.0)
    assert Path(whole["file"]).stat().st_size == whole["size_bytes"]
    assert abs(time.time() - whole["used"]) < 600


def test_clear_removes_everything_or_what_keys_begin_with(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    assert run(capsys, directory, "clear", "aa", "123").startswith("removed 2 (")
    assert [row.key for row in cache.kept(directory)] == [KEYS[1]]
    assert run(capsys, directory, "clear").startswith("removed 1 (")
    assert run(capsys, directory, "clear").startswith("removed 0 (")
    assert run(capsys, directory, "ls") == f"nothing is kept in {directory}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clear", "zz"], "nothing that is kept begins with zz; see ozone cache ls"),
        (["clear", "aa", "a"], "2 keys begin with a; see ozone cache ls"),
        (["ls", "aa"], "ozone cache ls takes no KEY; ozone cache clear does"),
    ],
)
def test_mistakes_are_one_line_and_remove_nothing(words: list[str], message: str, directory: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        cache.main([*words, f"-cc.cache_dir={directory}"])
    assert str(caught.value) == message
    assert len(cache.kept(directory)) == 3


def test_programs_that_others_could_have_written_are_an_error(directory: Path) -> None:
    (directory / "programs").chmod(0o777)
    with pytest.raises(ConfigError, match="other users can write there"):
        cache.main(["ls", f"-cc.cache_dir={directory}"])


def test_the_path_is_that_of_a_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OZONE_CACHE_DIR", "/from/environment")
    assert cache.main(["path"]) == 0
    assert capsys.readouterr().out == "/from/environment\n"
    assert run(capsys, tmp_path, "path") == f"{tmp_path}\n"
    assert json.loads(run(capsys, tmp_path, "path", "--json")) == {"path": str(tmp_path)}


def test_a_missing_directory_is_empty_and_not_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(capsys, tmp_path / "none", "ls") == f"nothing is kept in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "just now"), (150, "2 min ago"), (7200, "2 h ago"), (9e4, "1 d ago")],
)
def test_ages(seconds: float, text: str) -> None:
    assert cache.age(seconds) == text


def test_torch_stays_out(directory: Path) -> None:
    code = (
        f"import sys; from ozone.cli.main import main; main(['cache', 'ls', '-cc.cache_dir={directory}']);"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
