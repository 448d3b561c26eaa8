"""Rebuilt tokenizers on disk: one folder for each vocabulary, holding its tokenizer.json and a checksum."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_NAME = "tokenizer.json"
_CHECKSUM = "tokenizer.json.sha256"


def read(cache_dir: Path, key: str) -> bytes | None:
    """The tokenizer.json kept under `key`; None where there is none or it is damaged."""
    folder = cache_dir / key
    try:
        content = (folder / _NAME).read_bytes()
        checksum = (folder / _CHECKSUM).read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return content if hashlib.sha256(content).hexdigest() == checksum else None


def write(cache_dir: Path, key: str, content: bytes) -> None:
    """Keep a tokenizer.json. Each file appears whole or not at all; failure costs only the cache."""
    folder = cache_dir / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / _NAME, content)
        _replace(folder / _CHECKSUM, hashlib.sha256(content).hexdigest().encode())
    except OSError as error:
        logger.warning("the rebuilt tokenizer is not cached: %s", error)


def keys(cache_dir: Path) -> Iterator[str]:
    """What is kept."""
    if cache_dir.is_dir():
        yield from sorted(folder.name for folder in cache_dir.iterdir() if (folder / _NAME).is_file())


def measure(cache_dir: Path, key: str) -> tuple[int, float]:
    """Bytes of what is kept under `key`, and when it was written, in seconds of `time.time`."""
    status = (cache_dir / key / _NAME).stat()
    return status.st_size + (cache_dir / key / _CHECKSUM).stat().st_size, status.st_mtime


def remove(cache_dir: Path, key: str) -> None:
    """Remove what is kept under `key`."""
    shutil.rmtree(cache_dir / key)


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
