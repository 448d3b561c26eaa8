"""Programs of ours that a benchmark starts in processes of their own: their flags, and how they fail."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

from ozone.errors import OzoneError

_ERROR = "ozone: error: "


def engine_words(words: Sequence[str], own: Collection[argparse.Action]) -> list[str]:
    """The engine's words of a command line: all but the benchmark's `own` flags and their values."""
    nargs = {option: action.nargs for action in own for option in action.option_strings}
    rest: list[str] = []
    waiting = iter(words)
    for word in waiting:
        flag, equals, _ = word.partition("=")
        flag = "--" + flag[2:].replace("_", "-") if flag.startswith("--") else flag
        if flag not in nargs:
            rest.append(word)
        elif nargs[flag] != 0 and not equals:
            next(waiting, None)
    return rest


def child_failure(program: str, code: int, stderr: str) -> Exception:
    """What to raise for a child that ended with `code`: its user's mistake, or its bug with the traceback."""
    mistakes = [line for line in stderr.splitlines() if line.startswith(_ERROR)]
    if code == 2 and mistakes:
        return OzoneError(mistakes[-1].removeprefix(_ERROR))
    return RuntimeError(f"{program} ended with code {code}:\n{stderr.strip()}")
