"""The directory of a dump: it can be written, and an earlier dump in it makes way. Never imports torch."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

from ozone.config.schema import CompilationMode, CUDAGraphMode, OzoneConfig
from ozone.errors import ConfigError, shown

logger = logging.getLogger("ozone")

# All that a dump consists of. Whatever else lies in the directory is somebody else's.
_FILES = ("index.html", "report.json", "config.json", "config.txt", "traced.py", "tuning.txt", "error.txt")
_FOLDERS = "graph-*"
_SUFFIXES = (".py", ".diff", ".txt")


def dump_path(config: OzoneConfig) -> str | None:
    """Where a start with these settings leaves a dump; None for nowhere, also where nothing is compiled."""
    compilation = config.compilation
    nothing = compilation.mode is CompilationMode.NONE and compilation.cudagraph_mode is CUDAGraphMode.NONE
    return None if nothing else compilation.debug_dump_path


class DumpDirectory:
    """A directory that is there and can be written."""

    def __init__(self, path: str) -> None:
        """Makes it if need be. Raises: `ConfigError` where it cannot be written."""
        self.path = Path(path)
        self._full = False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"-cc.debug_dump_path={shown(path)}: {reason}; give a directory that can be written"
            ) from None

    def clear(self) -> None:
        """Remove an earlier dump."""
        folders = [f for f in self.path.glob(_FOLDERS) if f.is_dir() and not f.is_symlink()]
        parts = [file for folder in folders for file in folder.iterdir() if file.suffix in _SUFFIXES]
        for file in (*parts, *(self.path / name for name in _FILES)):
            with contextlib.suppress(OSError):  # what stays is overwritten, or the page does not name it
                file.unlink()
        for folder in folders:
            with contextlib.suppress(OSError):  # somebody else's file is in it
                folder.rmdir()

    def write(self, name: str, text: str) -> None:
        """Write a file; `name` may be in a folder. Where that fails the start goes on, with one warning."""
        file = self.path / name
        try:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            if not self._full:
                logger.warning("the debug dump is not complete: %s: %s", file, error.strerror or error)
            self._full = True
