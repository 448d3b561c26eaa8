"""Writing tensors to safetensors files one by one: their shapes are known before the first is, so that none
but the one at hand needs memory.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ozone.weights.safetensors_file import DTYPE_BYTES, METADATA
from ozone.weights.safetensors_source import INDEX, SINGLE

MAX_SHARD_BYTES = 5_000_000_000
_ALIGNMENT = 8  # of the first tensor, as the format's own library has it


class PlannedTensor(NamedTuple):
    """A tensor to be written. `dtype`: safetensors' name of its type."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


class _Place(NamedTuple):
    """Where a tensor's elements are."""

    path: Path
    offset: int
    nbytes: int


class SafetensorsWriter:
    """Writes the tensors of one model to a directory: one file, or several of at most `max_shard_bytes` with
    an index. Tensors come in the order of `plan`.
    """

    def __init__(
        self, folder: Path, plan: Sequence[PlannedTensor], max_shard_bytes: int = MAX_SHARD_BYTES
    ) -> None:
        self._folder = folder
        self._shards = _split(plan, max_shard_bytes)
        self._names = [_shard_name(index, len(self._shards)) for index in range(len(self._shards))]
        self._shard = -1
        self._waiting: list[PlannedTensor] = []
        self._file: IO[bytes] | None = None
        self._written: dict[str, _Place] = {}

    def write(self, name: str, data: NDArray[np.generic]) -> None:
        """The next tensor's elements, in row-major order. Any type whose bytes are those of the tensor."""
        if not self._waiting:
            self._open_next()
        tensor = self._waiting.pop(0)
        if tensor.name != name or data.nbytes != tensor.nbytes:
            raise ValueError(f"{name} of {data.nbytes} bytes instead of {tensor.name} of {tensor.nbytes}")
        assert self._file is not None
        self._written[name] = _Place(
            self._folder / self._names[self._shard], self._file.tell(), tensor.nbytes
        )
        self._file.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)

    def close(self) -> list[str]:
        """Finish; returns the names of the files that were written."""
        if self._file is not None:
            self._file.close()
        if self._waiting or self._shard + 1 < len(self._shards):
            raise ValueError("not every planned tensor was written")
        if len(self._names) == 1:
            return self._names
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for shard in self._shards for tensor in shard)},
            "weight_map": {
                tensor.name: name
                for name, shard in zip(self._names, self._shards, strict=True)
                for tensor in shard
            },
        }
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return [*self._names, INDEX]

    def rewrite(self, name: str, data: NDArray[np.generic]) -> None:
        """Other elements for a tensor that was written. Only after `close`."""
        place = self._written[name]
        if data.nbytes != place.nbytes:
            raise ValueError(f"{name} of {data.nbytes} bytes instead of {place.nbytes}")
        with place.path.open("r+b") as file:
            file.seek(place.offset)
            file.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)

    def abandon(self) -> None:
        """Close the file at hand, finished or not."""
        if self._file is not None:
            self._file.close()

    def _open_next(self) -> None:
        if self._file is not None:
            self._file.close()
        self._shard += 1
        self._waiting = list(self._shards[self._shard])
        header: dict[str, object] = {METADATA: {"format": "pt"}}
        start = 0
        for tensor in self._waiting:
            offsets = [start, start := start + tensor.nbytes]
            header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._file = (self._folder / self._names[self._shard]).open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)


def _split(plan: Sequence[PlannedTensor], max_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in plan:
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _shard_name(index: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{index + 1:05}-of-{count:05}.safetensors"
