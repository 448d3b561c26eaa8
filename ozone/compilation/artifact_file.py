"""An artifact as bytes: a JSON header, native words, and a digest over both. Nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

_MAGIC = b"OZONEART"
_DIGEST_BYTES = hashlib.sha256().digest_size
_LENGTH_BYTES = 8
_FIXED = len(_MAGIC) + _DIGEST_BYTES + _LENGTH_BYTES

# Raised when an older Ozone could not read what this one writes; the key of an artifact has it too.
FORMAT = 2


class DamagedArtifactError(Exception):
    """What was read is not what was written."""


def pack(header: Mapping[str, Any], blobs: Sequence[bytes]) -> bytes:
    """The bytes of an artifact: magic, SHA-256 of the rest, length of the header, header, blobs."""
    described = {**header, "format": FORMAT, "blob_bytes": [len(blob) for blob in blobs]}
    text = json.dumps(described, separators=(",", ":")).encode()
    rest = b"".join((len(text).to_bytes(_LENGTH_BYTES, "little"), text, *blobs))
    return b"".join((_MAGIC, hashlib.sha256(rest).digest(), rest))


def unpack(content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header and blobs of what `pack` returned.

    Raises: `DamagedArtifactError` for anything else: every byte is covered by the digest or is part of it.
    """
    if len(content) < _FIXED or not content.startswith(_MAGIC):
        raise DamagedArtifactError("it is no artifact, or only the beginning of one")
    rest = memoryview(content)[len(_MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(rest).digest() != content[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]:
        raise DamagedArtifactError("its digest is not that of its content")
    text_bytes = int.from_bytes(rest[:_LENGTH_BYTES], "little")
    text, data = rest[_LENGTH_BYTES : _LENGTH_BYTES + text_bytes], rest[_LENGTH_BYTES + text_bytes :]
    try:
        header = json.loads(bytes(text))
        sizes = header["blob_bytes"]
        if header["format"] != FORMAT or sum(sizes) != len(data) or min(sizes, default=0) < 0:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedArtifactError("its header does not describe it") from None
    blobs, begin = [], 0
    for size in sizes:
        blobs.append(bytes(data[begin : begin + size]))
        begin += size
    return header, blobs
