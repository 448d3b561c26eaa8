"""Generated text on stdout: as it is into a file or a pipe, harmless on a terminal."""

from __future__ import annotations

import sys

from ozone.errors import harmless


def print_answer(text: str, end: str = "\n") -> None:
    """Print what a model wrote. A model, and whoever wrote its prompt, may not steer a terminal."""
    print(harmless(text) if sys.stdout.isatty() else text, end=end, flush=True)
