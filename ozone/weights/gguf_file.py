"""The GGUF container: header, metadata and tensor table of one memory-mapped file, bounds-checked.

Versions 2 and 3, little-endian. What the metadata and the tensor names mean is for `gguf_config` and
`gguf_source`; no tensor is converted here. Whatever the bytes are, the result is a `GGUFFile` or one
`ModelFileError`: no count from the file is believed before the file is known to be large enough for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ozone.errors import ModelFileError, shown
from ozone.weights.files import map_file, release_pages
from ozone.weights.gguf_types import GGUF_TYPES, BlockType

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_METADATA_ENTRIES = 1 << 16
MAX_TENSORS = 1 << 17
MAX_STRINGS = 1 << 23  # in all arrays of one file: keeps the walk over a hostile file under a few seconds
MAX_NESTING = 4
MAX_NESTED = 1 << 16  # arrays within arrays: each becomes an object many times its size in the file
MAX_KEY_BYTES = 1 << 16
MAX_DIMS = 4

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("<u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}


@dataclass(frozen=True)
class TensorInfo:
    """One row of the tensor table.

    Attributes:
        name: the name in the file.
        shape: row-major, in elements (GGUF itself lists the fastest dimension first).
        kind: how the elements are stored.
        start: first byte in the file.
        nbytes: size in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    start: int
    nbytes: int


def is_projector(name: str) -> bool:
    """Whether a file's name says that it holds the part for images of a model, not the model."""
    return "mmproj" in name.lower()


class StringArray(Sequence[str]):
    """A GGUF array of strings, whose bounds are checked at open and whose text is decoded on first use.

    A vocabulary of 262,144 tokens takes as long to decode as the rest of the file to open, and a start
    with a cached tokenizer never looks at it.
    """

    def __init__(self, data: memoryview, count: int, where: str) -> None:
        self._data = data
        self._count = count
        self._where = where
        self._decoded: list[str] | None = None

    @property
    def raw(self) -> memoryview:
        """The array as it lies in the file (lengths and texts), for hashing."""
        return self._data

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._decode()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decode())

    def __repr__(self) -> str:
        return f"<StringArray of {self._count}>"

    def _decode(self) -> list[str]:
        if self._decoded is None:
            data, length_at = self._data, _U64.unpack_from
            texts: list[str] = []
            start = 0
            try:
                for _ in range(self._count):
                    end = start + 8 + length_at(data, start)[0]
                    texts.append(str(data[start + 8 : end], "utf-8"))
                    start = end
            except UnicodeDecodeError:
                raise ModelFileError(f"{self._where}: string {len(texts)} is not UTF-8") from None
            self._decoded = texts
        return self._decoded


class GGUFFile:
    """An open GGUF file.

    Attributes:
        path: the file.
        version: 2 or 3.
        metadata: all key-values; numbers as Python's, arrays of numbers as numpy views, arrays of strings
            as `StringArray`, nested arrays as lists.
        tensors: the tensor table by name, in the order of the file.
    """

    def __init__(self, path: Path) -> None:
        """Opens and checks the file; `ModelFileError` where it cannot be read or is not sound."""
        self.path = path
        self._data = map_file(path)
        if bytes(self._data[:4]) != MAGIC:
            raise ModelFileError(f"{path}: not a GGUF file (it does not start with 'GGUF')")
        reader = _Reader(self._data, path)
        self.version = reader.version()
        tensor_count = reader.count("tensors", MAX_TENSORS, least_bytes=24)
        entry_count = reader.count("metadata entries", MAX_METADATA_ENTRIES, least_bytes=13)
        self.metadata: dict[str, Any] = reader.metadata(entry_count)
        self.tensors: dict[str, TensorInfo] = reader.tensors(
            tensor_count, alignment=_alignment(self.metadata, path)
        )

    def release(self) -> None:
        """Take what was read of the file off this process's memory."""
        release_pages(self._data)

    def tensor_data(self, info: TensorInfo) -> NDArray[np.uint8]:
        """The bytes of a tensor: one-dimensional, read-only, a view into the mapped file."""
        return np.frombuffer(self._data, np.uint8, info.nbytes, info.start)


class _Reader:
    """A cursor over the header that cannot leave the file."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = len(MAGIC)
        self.strings_left = MAX_STRINGS
        self.nested_left = MAX_NESTED

    def fail(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: damaged GGUF file: {problem}")

    def take(self, nbytes: int, what: str) -> int:
        """Steps over `nbytes` and returns where they start."""
        start = self.position
        if nbytes > len(self.data) - start:
            raise self.fail(f"it ends within {what}")
        self.position = start + nbytes
        return start

    def u32(self, what: str) -> int:
        value: int = _U32.unpack_from(self.data, self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack_from(self.data, self.take(8, what))[0]
        return value

    def version(self) -> int:
        version = self.u32("its header")
        if version & 0xFFFF == 0 and version:
            raise ModelFileError(f"{self.path}: big-endian GGUF files are not supported")
        if version not in (2, 3):
            raise ModelFileError(f"{self.path}: GGUF version {version} is not supported (2 and 3 are)")
        return version

    def count(self, what: str, limit: int, least_bytes: int) -> int:
        """A count of things of which each needs at least `least_bytes` in the rest of the file."""
        count = self.u64(f"the number of {what}")
        if count > limit or count * least_bytes > len(self.data) - self.position:
            raise self.fail(f"{count} {what} are more than it can hold")
        return count

    def text(self, what: str, limit: int | None = None) -> str:
        length = self.u64(what)
        if limit is not None and length > limit:
            raise self.fail(f"{what} has {length} bytes")
        start = self.take(length, what)
        try:
            return str(self.data[start : start + length], "utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8") from None

    def metadata(self, count: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for index in range(count):
            key = self.text(f"metadata key {index}", MAX_KEY_BYTES)
            if key in entries:
                raise self.fail(f"metadata key {shown(key)} occurs twice")
            entries[key] = self.value(self.u32(shown(key)), shown(key), MAX_NESTING)
        return entries

    def value(self, kind: int, key: str, nesting: int) -> Any:
        if kind == _STRING:
            return self.text(key)
        if kind == _ARRAY:
            return self.array(key, nesting)
        dtype = self.scalar_type(kind, key)
        start = self.take(dtype.itemsize, key)
        number = np.frombuffer(self.data, dtype, 1, start)[0].item()
        if kind == _BOOL:
            if number > 1:
                raise self.fail(f"{key} is {number}, not a boolean")
            return bool(number)
        return number

    def scalar_type(self, kind: int, key: str) -> np.dtype[Any]:
        dtype = _SCALARS.get(kind)
        if dtype is None:
            raise self.fail(f"{key} has the unknown value type {kind}")
        return dtype

    def array(self, key: str, nesting: int) -> Any:
        if nesting == 0:
            raise self.fail(f"{key} has arrays nested deeper than {MAX_NESTING}")
        kind = self.u32(key)
        if kind == _STRING:
            return self.strings(key)
        if kind == _ARRAY:
            count = self.count(f"elements of {key}", self.nested_left, least_bytes=12)
            self.nested_left -= count
            return [self.array(key, nesting - 1) for _ in range(count)]
        dtype = self.scalar_type(kind, key)
        count = self.count(f"elements of {key}", len(self.data), least_bytes=dtype.itemsize)
        numbers = np.frombuffer(self.data, dtype, count, self.take(count * dtype.itemsize, key))
        if kind == _BOOL:
            if count and numbers.max() > 1:
                raise self.fail(f"{key} has elements that are not booleans")
            return numbers.view(np.bool_)
        return numbers

    def strings(self, key: str) -> StringArray:
        count = self.count(f"strings of {key}", self.strings_left, least_bytes=8)
        self.strings_left -= count
        data, length_at = self.data, _U64.unpack_from
        start = end = self.position
        try:
            for _ in range(count):
                end += 8 + length_at(data, end)[0]
        except (struct.error, OverflowError):
            raise self.fail(f"a string of {key} ends outside the file") from None
        self.take(end - start, key)
        return StringArray(data[start:end], count, f"{self.path}: damaged GGUF file: {key}")

    def tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        rows = [self.tensor_row(index) for index in range(count)]
        base = -(-self.position // alignment) * alignment
        table: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in rows:
            if name in table:
                raise self.fail(f"tensor {shown(name)} occurs twice")
            nbytes = math.prod(shape) // kind.block_size * kind.block_bytes
            if offset % alignment:
                raise self.fail(f"tensor {shown(name)} is not aligned to {alignment} bytes")
            if base + offset + nbytes > len(self.data):
                raise self.fail(
                    f"tensor {shown(name)} lies outside it (the file has {len(self.data)} bytes,"
                    f" the tensor ends at {base + offset + nbytes}; an incomplete download?)"
                )
            table[name] = TensorInfo(name, shape, kind, base + offset, nbytes)
        self.refuse_overlaps(table)
        return table

    def tensor_row(self, index: int) -> tuple[str, tuple[int, ...], BlockType, int]:
        name = self.text(f"the name of tensor {index}", MAX_KEY_BYTES)
        where = f"tensor {shown(name)}"
        ndim = self.u32(where)
        if ndim > MAX_DIMS:
            raise self.fail(f"{where} has {ndim} dimensions")
        dims = [self.u64(where) for _ in range(ndim)]
        type_id = self.u32(where)
        kind = GGUF_TYPES.get(type_id)
        if kind is None:
            raise ModelFileError(f"{self.path}: {where} has the unknown type {type_id}")
        if 0 in dims:
            raise self.fail(f"{where} is empty: its dimensions are {dims}")
        row = dims[0] if dims else 1
        if row % kind.block_size:
            raise self.fail(f"{where}: rows of {row} are not whole {kind.name} blocks")
        return name, tuple(reversed(dims)), kind, self.u64(where)

    def refuse_overlaps(self, table: dict[str, TensorInfo]) -> None:
        end, before = 0, ""
        for info in sorted(table.values(), key=lambda info: info.start):
            if info.start < end:
                raise self.fail(f"tensors {shown(before)} and {shown(info.name)} overlap")
            end, before = info.start + info.nbytes, info.name


def _alignment(metadata: dict[str, Any], path: Path) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ModelFileError(
            f"{path}: damaged GGUF file: general.alignment is {shown(alignment)}, not a power of two"
        )
    return alignment
