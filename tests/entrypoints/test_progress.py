"""The progress bar of a start."""

from __future__ import annotations

import io
import sys

import pytest

from ozone.entrypoints import progress as module
from ozone.entrypoints.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
    # Not a fixture: pytest sets stderr anew between a test's setup and its call.
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_what_takes_long_is_shown_with_its_total(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch, Terminal())
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    with progress("Loading weights", " layers") as report:
        report(1, 4)
        report(4, 4)
    assert "Loading weights" in terminal.getvalue()
    assert "/4" in terminal.getvalue()


def test_what_is_quick_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch, Terminal())
    with progress("Loading weights", " layers") as report:
        report(1, 1)
    assert terminal.getvalue() == ""


def test_nothing_is_drawn_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    stream = watch(monkeypatch, io.StringIO())
    with progress("Loading weights", " layers") as report:
        report(1, 2)
    assert stream.getvalue() == ""
