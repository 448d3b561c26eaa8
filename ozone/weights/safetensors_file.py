"""One safetensors file, memory-mapped: its header is read and checked, no tensor is converted.

The header is a JSON object that names each tensor's type, shape and byte range. Ranges must fit the
shape, lie within the file and not overlap.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ozone.errors import ModelFileError, shown
from ozone.weights.files import decode_text, map_file, parse_json_object, release_pages
from ozone.weights.source import RawTensor

MAX_HEADER_BYTES = 32 << 20  # real ones have up to 10 MB; parsed, the worst JSON takes twenty times its size
MAX_DIMS = 8
METADATA = "__metadata__"

DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}


class SafetensorsFile:
    """An open safetensors file.

    Attributes:
        path: the file.
        tensors: by name: type, shape, first byte in the file, size in bytes.
    """

    def __init__(self, path: Path) -> None:
        """Opens and checks the file; `ModelFileError` where it cannot be read or is not sound."""
        self.path = path
        self._data = map_file(path)
        header, self._start = self._read_header()
        if not isinstance(header.pop(METADATA, {}), dict):
            raise self._fail(f"{METADATA} is not an object")
        self.tensors = {name: self._tensor(name, entry) for name, entry in header.items()}
        self._refuse_gaps_and_overlaps()

    def get(self, name: str) -> RawTensor:
        """A tensor of this file; its data is a view into the mapping."""
        dtype, shape, start, nbytes = self.tensors[name]
        return RawTensor(name, dtype, shape, self._view(start, nbytes))

    def release(self) -> None:
        """Take what was read of the file off this process's memory."""
        release_pages(self._data)

    def _view(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        return np.frombuffer(self._data, np.uint8, nbytes, start)

    def _fail(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: damaged safetensors file: {problem}")

    def _read_header(self) -> tuple[dict[str, Any], int]:
        """The header and the position of the first data byte."""
        if len(self._data) < 8:
            raise self._fail("it ends within its header")
        (length,) = struct.unpack_from("<Q", self._data)
        if length > MAX_HEADER_BYTES or length > len(self._data) - 8:
            raise self._fail(f"its header of {length} bytes does not fit")
        where = f"{self.path}: damaged safetensors file: header"
        text = decode_text(bytes(self._data[8 : 8 + length]), where)
        return parse_json_object(text, where, unique_keys=True), 8 + length

    def _tensor(self, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
        where = f"tensor {shown(name)}"
        if not isinstance(entry, dict):
            raise self._fail(f"{where} is {shown(entry)}")
        shape: Any
        offsets: Any
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
            raise ModelFileError(f"{self.path}: {where} has the type {shown(dtype)}, which is not supported")
        if not _are_sizes(shape) or len(shape) > MAX_DIMS:
            raise self._fail(f"{where} has the shape {shown(shape)}")
        if not _are_sizes(offsets) or len(offsets) != 2:
            raise self._fail(f"{where} has the offsets {shown(offsets)}")
        start, end = offsets
        nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
        if end - start != nbytes:
            raise self._fail(f"{where}: {dtype} {shape} needs {nbytes} bytes, its offsets span {end - start}")
        if self._start + end > len(self._data):
            raise self._fail(
                f"{where} lies outside it (the file has {len(self._data)} bytes,"
                f" the tensor ends at {self._start + end}; an incomplete download?)"
            )
        return dtype, tuple(shape), self._start + start, nbytes

    def _refuse_gaps_and_overlaps(self) -> None:
        """The format demands that the tensors cover the data exactly."""
        end, before = self._start, "its header"
        for name, (_, _, start, nbytes) in sorted(self.tensors.items(), key=lambda item: item[1][2:]):
            if start != end:
                verb = "overlap" if start < end else "leave a gap"
                raise self._fail(f"{before} and tensor {shown(name)} {verb}")
            end, before = start + nbytes, f"tensor {shown(name)}"
        if end != len(self._data):
            raise self._fail(f"{len(self._data) - end} bytes follow {before}")


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)
