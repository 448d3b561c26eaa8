"""How a layer gets its weights: decoded out of a weight source, checked against what the model expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ozone.errors import ModelFileError
from ozone.weights.source import RawTensor, WeightSource

# Elements that are decoded before they are moved to where they stay: few enough for a cache.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Decoder:
    """Turns stored elements of one type into numbers.

    Attributes:
        block_elements: elements stored together.
        block_bytes: bytes that they take.
        decode: writes the elements of the bytes (one-dimensional) to a contiguous one-dimensional
            tensor, converted to that tensor's type. Called by several threads at once.
    """

    block_elements: int
    block_bytes: int
    decode: Callable[[NDArray[np.uint8], Tensor], None]


# Stored types that a quantization scheme takes as they are, under their safetensors names.
_STORED_TYPES: dict[str, torch.dtype] = {
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}


class MatrixRows(Protocol):
    """A matrix that is read a few rows at a time, by layers that keep it in another layout."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def row_chunks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """All rows in turn, as `dtype`: the number of the first of a few, and those, (rows, columns), in
        memory that the next ones may take.
        """
        ...


@dataclass(frozen=True)
class StoredTensor:
    """A checked tensor of a weight source, with what decodes it; a matrix's rows are `MatrixRows`."""

    raw: RawTensor
    decoder: Decoder

    @property
    def rows(self) -> int:
        return self.raw.shape[0]

    def row_chunks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        rows, columns = self.raw.shape
        elements, size = self.decoder.block_elements, self.decoder.block_bytes
        unit = elements // math.gcd(columns, elements)  # rows that are whole blocks together
        count = max(_CHUNK // (columns * unit), 1) * unit
        buffer = torch.empty((min(count, rows), columns), dtype=dtype)
        for first in range(0, rows, count):
            chunk = buffer[: min(count, rows - first)]
            begin = first * columns // elements * size
            end = begin + chunk.numel() // elements * size
            self.decoder.decode(self.raw.data[begin:end], chunk.view(-1))
            yield first, chunk


class Checkpoint:
    """A weight source together with the decoders of the types it may hold."""

    def __init__(self, source: WeightSource, decoders: Mapping[str, Decoder]) -> None:
        self.source = source
        self._decoders = decoders
        self._names = frozenset(source.names())
        self._read: set[str] = set()
        self._bytes_read = self._bytes_released = 0

    def unused(self) -> frozenset[str]:
        """Names of the tensors that nobody has asked for."""
        return self._names - self._read

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._names

    def release(self, *, at_least: int = 0) -> None:
        """Take the files' pages off this process's memory, if `at_least` so many bytes were read since the
        last time: a mapped file that has been read counts as resident, beside what was made of it.
        """
        if self._bytes_read - self._bytes_released >= at_least:
            self._bytes_released = self._bytes_read
            self.source.release()

    def raw(self, name: str, shape: tuple[int, ...], *others: tuple[int, ...]) -> RawTensor:
        """The tensor as it is stored. `ModelFileError` where it is missing or has none of these shapes."""
        tensor = self.source.get(name)
        self._read.add(name)
        self._bytes_read += tensor.data.size
        if tuple(tensor.shape) not in (shape, *others):
            raise ModelFileError(
                f"{self.source.path}: tensor {name} has shape {_text(tensor.shape)}, "
                f"but this model's config asks for {' or '.join(map(_text, (shape, *others)))}"
            )
        return tensor

    def raw_of_type(self, name: str, types: Collection[str], shape: tuple[int, ...]) -> RawTensor:
        """`raw`, of one of these stored types. `ModelFileError` for another."""
        tensor = self.raw(name, shape)
        if tensor.dtype not in types:
            raise ModelFileError(
                f"{self.source.path}: tensor {name} is stored as {tensor.dtype}, "
                f"but the model's quantization_config asks for {' or '.join(types)}"
            )
        return tensor

    def numbers(self, name: str, shape: tuple[int, ...], *others: tuple[int, ...]) -> Tensor:
        """A small tensor of any floating type as float32. `ModelFileError` where one is not finite."""
        tensor = self.raw(name, shape, *others)
        decoder = self._decoder(tensor)
        values = torch.empty(math.prod(tensor.shape), dtype=torch.float32)
        decoder.decode(tensor.data, values)
        if not bool(values.isfinite().all()):
            raise ModelFileError(f"{self.source.path}: tensor {name} has numbers that are not finite")
        return values.view(tensor.shape)

    def read(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Tensor:
        """Tensors decoded to `dtype` and stacked by rows. Checked as in `open`."""
        stored = self.open(names, shapes)
        rows = [shape[0] for shape in shapes]
        stacked = torch.empty((sum(rows), *shapes[0][1:]), dtype=dtype)
        for tensor, part in zip(stored, torch.split(stacked, rows), strict=True):
            tensor.decoder.decode(tensor.raw.data, part.view(-1))
        return stacked

    def open(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[StoredTensor]:
        """Tensors still to be decoded.

        Shapes, types and sizes are all checked before any is decoded and memory is taken for it: a small file
        cannot ask for much.
        """
        tensors = [self.raw(name, shape) for name, shape in zip(names, shapes, strict=True)]
        return [StoredTensor(tensor, self._decoder(tensor)) for tensor in tensors]

    def _decoder(self, tensor: RawTensor) -> Decoder:
        decoder = self._decoders.get(tensor.dtype)
        if decoder is None:
            raise ModelFileError(
                f"{self.source.path}: tensor {tensor.name} is stored as {tensor.dtype}; "
                f"readable here are {', '.join(self._decoders)}"
            )
        blocks, rest = divmod(math.prod(tensor.shape), decoder.block_elements)
        if rest or tensor.data.size != blocks * decoder.block_bytes:
            raise ModelFileError(
                f"{self.source.path}: tensor {tensor.name} of type {tensor.dtype} and shape "
                f"{_text(tensor.shape)} has {tensor.data.size} bytes, which do not make that shape"
            )
        return decoder


def stored(tensor: RawTensor) -> Tensor:
    """A copy of a tensor of one of the types that schemes take as they are."""
    # Files are mapped read-only, and torch wants writable memory.
    return torch.from_numpy(tensor.data.copy()).view(_STORED_TYPES[tensor.dtype]).view(tensor.shape)


class LoadableLayer(nn.Module):
    """A layer with tensors of its own. Built without memory (meta device), filled by `load`."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Allocate this layer's tensors and fill them. Layers load in several threads at once."""
        raise NotImplementedError

    def load_cost(self) -> int:
        """Elements to decode: loading starts with the layers that take longest."""
        return sum(parameter.numel() for parameter in self.parameters(recurse=False))


def meta_parameter(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """The promise of a parameter: a shape and a type without memory."""
    return parameter(torch.empty(shape, dtype=dtype, device="meta"))


def parameter(tensor: Tensor) -> nn.Parameter:
    """A tensor as a parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
