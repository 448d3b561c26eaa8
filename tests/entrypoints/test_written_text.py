"""Text that a model writes itself begins as it is told to and goes on by itself, the same each time."""

from __future__ import annotations

from pathlib import Path

from ozone.entrypoints.written_text import written_windows

SIZE = 80


def test_windows_begin_as_they_are_told_to(tiny_model: Path) -> None:
    model = {"model": str(tiny_model), "optimization_level": 0}
    beginnings = [[3 + i, 5, 7 + i] for i in range(19)]
    seen: list[int] = []
    windows = written_windows(model, beginnings, SIZE, seen.append)
    assert seen == [16, 19]
    assert windows
    assert all(64 <= len(window) <= SIZE for window in windows)
    starts = [window[:3] for window in windows]
    assert all(start in beginnings for start in starts)
    assert starts == [start for start in beginnings if start in starts], "in order, each once"
    assert len({tuple(window[3:]) for window in windows}) == len(windows), "each goes on in its own way"
    assert written_windows(model, beginnings, SIZE, seen.append) == windows
