"""Thousands of damaged model files: each loads or is refused in one line, within 2 GB and without a hang.

They are loaded in processes of their own with limits on memory and time (`fuzz_child.py`): what ends such
a process is a fault of the case at hand. ``fuzz_child.py KIND CASE CASE+1 /dev/null`` shows a fault again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzed_files import CASES, case

CHILD = Path(__file__).with_name("fuzz_child.py")
QUICK = 80
# Together 20,000.
MANY = {
    "gguf": 6000,
    "config": 3500,
    "safetensors": 3000,
    "tokenizer": 3500,
    "tokenizer_config": 1500,
    "generation_config": 1000,
    "chat_template": 1500,
}
MOST_FAULTS = 5


def faults(kind: str, first: int, end: int, folder: Path) -> list[str]:
    """What was wrong with which cases; the first few."""
    found: list[str] = []
    progress = folder / "progress"
    while first < end and len(found) < MOST_FAULTS:
        progress.write_text(str(first))
        words = [sys.executable, str(CHILD), kind, str(first), str(end), str(progress)]
        child = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=1200)
        for line in child.stdout.splitlines():
            fault = json.loads(line)
            found.append(f"{kind} {fault['case']}: {fault['fault']}")
        if child.returncode == 0:
            break
        culprit = int(progress.read_text())
        found.append(f"{kind} {culprit}: ended with code {child.returncode}: {child.stderr[:1000]}")
        first = culprit + 1
    return found[:MOST_FAULTS]


def test_a_case_is_the_same_everywhere() -> None:
    assert sum(MANY.values()) == 20_000 and MANY.keys() == CASES.keys()
    for kind in CASES:
        assert case(kind, 3) == case(kind, 3)
        assert case(kind, 3) != case(kind, 4)


@pytest.mark.parametrize("kind", CASES)
def test_damaged_files_load_or_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    found = faults(kind, 0, QUICK, tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", CASES)
def test_thousands_of_damaged_files(kind: str, tmp_path: Path) -> None:
    found = faults(kind, QUICK, QUICK + MANY[kind], tmp_path)
    assert not found, "\n".join(found)


def test_what_ends_a_process_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys\n"
        "for case in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        "    open(sys.argv[4], 'w').write(str(case))\n"
        "    if case in (3, 7): sys.stderr.write('out of memory'), sys.stderr.flush(), os.abort()\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "CHILD", child)
    found = faults("gguf", 0, 10, tmp_path)
    assert [line.split(":")[0] for line in found] == ["gguf 3", "gguf 7"]
    assert all("code -6: out of memory" in line for line in found)
