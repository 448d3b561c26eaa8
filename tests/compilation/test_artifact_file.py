"""The bytes of an artifact: what was packed comes back, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone.compilation.artifact_file import FORMAT, DamagedArtifactError, pack, unpack

HEADER = {"label": {"model": "smollm2"}, "ranges": [1, 2.5, None]}
BLOBS = [b"12345678", b"", bytes(range(64))]
PACKED = pack(HEADER, BLOBS)


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_header_and_blobs_come_back(blobs: list[bytes]) -> None:
    header, unpacked = unpack(pack(HEADER, blobs))
    assert header.items() >= HEADER.items()
    assert unpacked == blobs


@pytest.mark.parametrize("byte", range(len(PACKED)))
def test_every_byte_is_covered(byte: int) -> None:
    damaged = bytearray(PACKED)
    damaged[byte] ^= 1 << byte % 8
    with pytest.raises(DamagedArtifactError):
        unpack(bytes(damaged))


@pytest.mark.parametrize("length", range(len(PACKED)))
def test_a_beginning_is_no_artifact(length: int) -> None:
    with pytest.raises(DamagedArtifactError):
        unpack(PACKED[:length])


@given(st.binary(max_size=200))
def test_neither_is_anything_else(content: bytes) -> None:
    for bytes_ in (content, PACKED + content[:1] + b"x", PACKED[:8] + content):
        with pytest.raises(DamagedArtifactError):
            unpack(bytes_)


@pytest.mark.parametrize(
    "header",
    [{"format": FORMAT + 1}, {"blob_bytes": [8, 1, 64]}, {"blob_bytes": [-8, 80]}, {"blob_bytes": "no"}],
)
def test_a_header_that_lies_is_refused(header: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As an Ozone of another format, or one with a fault, would write it: the digest is right."""
    import json

    dumps = json.dumps
    monkeypatch.setattr(
        "ozone.compilation.artifact_file.json.dumps",
        lambda value, **options: dumps(value | header, **options),
    )
    lying = pack(HEADER, BLOBS)
    with pytest.raises(DamagedArtifactError, match="header"):
        unpack(lying)
