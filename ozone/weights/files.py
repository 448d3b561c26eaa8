"""Reading of untrusted files: mapped or whole, bounded, with one-line errors."""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ozone.errors import ModelFileError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BEGINNING = 64  # bytes that tell a kind of file
MAX_JSON_BYTES = 16 << 20  # the largest of the common ones, tokenizer_config.json, has about 1 MB


def map_file(path: Path) -> memoryview:
    """A whole regular file, mapped read-only. The mapping lives as long as views of it do."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path}: not a regular file")
            if status.st_size == 0:
                raise ModelFileError(f"{path}: the file is empty")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            _refuse_stand_ins(path, bytes(data[:_BEGINNING]))
            return data
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None


def release_pages(mapped: memoryview) -> None:
    """Take the pages of a file from `map_file` off this process's memory. What is still needed comes back
    from the system's cache of files when it is touched; nobody's view is harmed.
    """
    if isinstance(mapped.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.obj.madvise(mmap.MADV_DONTNEED)


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """A whole UTF-8 file of at most `max_bytes`."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path}: not a regular file")
            if status.st_size > max_bytes:
                raise ModelFileError(f"{path}: larger than {max_bytes >> 20} MB")
            return decode_text(file.read(status.st_size), str(path))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None


def decode_text(data: bytes, where: str) -> str:
    """UTF-8 bytes as text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFileError(f"{where}: not UTF-8 text") from None


def parse_json_object(text: str, where: str, *, unique_keys: bool = False) -> dict[str, Any]:
    """A JSON object; NaN, infinities and anything that is not an object are refused, and with
    `unique_keys` so is a key that occurs twice in one object."""
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_unique if unique_keys else None
        )
        if _SURROGATE.search(text) is not None:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Python reads them; but nothing can be done with such a text.
        raise ModelFileError(f"{where}: a text in it has half of a character, \\ud800 to \\udfff") from None
    except RecursionError:
        raise ModelFileError(f"{where}: JSON nested too deeply") from None
    except ValueError as error:
        raise ModelFileError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: a JSON object is expected, not {type(value).__name__}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most `MAX_JSON_BYTES`."""
    return parse_json_object(read_text(path), str(path))


def read_json_if_present(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file, ``{}`` where there is no such file."""
    return read_json_object(path) if path.is_file() else {}


def _refuse_stand_ins(path: Path, beginning: bytes) -> None:
    """Raise for what is often found in a weight file's place."""
    if beginning.startswith(b"version https://git-lfs"):
        raise ModelFileError(f"{path}: a pointer of Git LFS, not the file itself; fetch it: git lfs pull")
    if beginning.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelFileError(f"{path}: a web page (HTML or XML) was saved in this file's place")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _without_waiting(path: str, flags: int) -> int:
    """Opens even a pipe that nobody writes to, so that it can be refused."""
    return os.open(path, flags | os.O_NONBLOCK)
