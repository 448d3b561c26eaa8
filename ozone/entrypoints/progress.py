"""A progress bar for what may take long: it appears after a second, and only on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_PATIENCE_SECONDS = 1.0


@contextlib.contextmanager
def progress(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback ``(done, total)``. What ends within a second, or is not watched, shows nothing."""
    begin = time.monotonic()
    watched = sys.stderr.isatty()
    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if not watched or (bar is None and time.monotonic() - begin < _PATIENCE_SECONDS):
            return
        if bar is None:
            from tqdm import tqdm

            bar = tqdm(total=total, desc=description, unit=unit, leave=False, file=sys.stderr)
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()
