"""`ozone bench host` with the tokenizer of a tiny model, and that it needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ozone.bench import host
from ozone.errors import ConfigError
from ozone.native import library

FAST = ["--num-threads", "1", "--output-len", "8", "--max-num-seqs", "4"]

needs_library = pytest.mark.skipif(library() is None, reason="the native library was not built")


@needs_library
def test_steps_are_timed_for_each_number_of_requests(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.main([str(tiny_model), "--batch-sizes", "1,3", "--json", *FAST]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert report["bench"] == "host"
    assert list(report["step_seconds"]) == ["1", "3"]
    # The first token comes with the prompt; two gaps are thrown away.
    assert all(step["median"] > 0 and step["count"] == 8 - 1 - 2 for step in report["step_seconds"].values())
    assert "3 running" in streams.err


@needs_library
def test_torch_is_not_imported(tiny_model: Path) -> None:
    code = (
        "import sys; from ozone.bench.host import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tiny_model), "--batch-sizes", "1", *FAST]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_without_the_native_library_it_says_so(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "library", lambda: None)
    with pytest.raises(ConfigError, match="needs the native library"):
        host.main([str(tiny_model), *FAST])
