"""A directory for what torch writes on its way, also where nothing can be written. Never imports torch.

Dynamo makes one when it is imported, and a trace fails without it, though nothing of ours is put there.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_TORCH_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_SHARED_MEMORY = Path("/dev/shm")


def provide_scratch(cache_dir: Path | None) -> None:
    """Before Dynamo is imported: let this process and those that it starts have a temporary directory.

    Where not even the usual places can be written (a read-only root, a full disk), it is in `cache_dir` or
    in shared memory; failing these it is one that exists and is never written to, which is enough for a
    trace. What does write there then fails by itself.
    """
    with contextlib.suppress(FileNotFoundError):
        tempfile.gettempdir()
        return
    directory = next(_writable(cache_dir), None)
    if directory is None:
        tempfile.tempdir = os.sep
        os.environ.setdefault(_TORCH_VARIABLE, os.sep)
    else:
        tempfile.tempdir = os.environ["TMPDIR"] = str(directory)


def _writable(cache_dir: Path | None) -> Iterator[Path]:
    for directory in (cache_dir, _SHARED_MEMORY):
        if directory is not None:
            with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=directory):
                yield directory
