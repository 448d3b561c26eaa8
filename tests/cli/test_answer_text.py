"""What a model writes cannot steer a terminal, and reaches files and pipes as it is."""

from __future__ import annotations

import sys

import pytest

from ozone.cli.answer_text import print_answer
from ozone.errors import harmless

HOSTILE = "a\x1b[2J\x9b1m\r\u202eb\x00"


@pytest.mark.parametrize(("terminal", "shown"), [(True, r"a\x1b[2J\x9b1m\r\u202eb\x00"), (False, HOSTILE)])
def test_control_characters_are_written_out_on_a_terminal_only(
    terminal: bool, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_answer(HOSTILE, end="")
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "👨‍👩‍👧 é 中 العربية", ""])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text
