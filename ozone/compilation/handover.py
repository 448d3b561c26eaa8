"""A step as bytes for another process, without what is in its memory.

Tensors keep their shapes, strides and places in storages, of memory that nobody has touched.
Compiling looks at no more.

For a pipe between two processes of ours: what comes out of a pickle may be anything.
"""

from __future__ import annotations

import functools
import io
import mmap
import pickle
from typing import Any

import torch
from torch import Tensor, nn

import ozone.ops.choice  # noqa: F401 (registers all ops)
from ozone.ops.registry import OPS

_FUNCTIONS = ("call", "reference", "function", "node")
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; Python names it from 3.13 on


def dumps(thing: Any) -> bytes:
    """The bytes of `thing`. Raises: what `pickle` raises for what it does not know."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


def loads(content: bytes) -> Any:
    """What `dumps` was given, but for what was in its memory."""
    return _Unpickler(io.BytesIO(content)).load()


@functools.cache
def _names() -> dict[int, tuple[str, str]]:
    """The functions of ops, which layers hold, by their identities."""
    return {id(getattr(op, part)): (name, part) for name, op in OPS.items() for part in _FUNCTIONS}


class _Pickler(pickle.Pickler):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._storages: dict[int, int] = {}

    def persistent_id(self, x: Any) -> tuple[Any, ...] | None:
        if isinstance(x, Tensor):
            storage = x.untyped_storage()
            number = self._storages.setdefault(storage.data_ptr(), len(self._storages))
            place = x.storage_offset(), number, storage.nbytes()
            return ("tensor", isinstance(x, nn.Parameter), x.dtype, tuple(x.shape), x.stride(), *place)
        if isinstance(x, torch._ops.OpOverload):
            return ("op", x._schema.name, x._overloadname)
        return ("function", *_names()[id(x)]) if callable(x) and id(x) in _names() else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def persistent_load(self, told: tuple[Any, ...]) -> Any:
        kind, *parts = told
        if kind == "op":
            namespace, _, name = parts[0].partition("::")
            return getattr(getattr(getattr(torch.ops, namespace), name), parts[1])
        if kind == "function":
            return getattr(OPS[parts[0]], parts[1])
        if told not in self._tensors:
            self._tensors[told] = self._tensor(*parts)
        return self._tensors[told]

    def _tensor(
        self,
        parameter: bool,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        offset: int,
        number: int,
        storage_bytes: int,
    ) -> Tensor:
        if number not in self._storages:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            memory = mmap.mmap(-1, max(storage_bytes, 1), flags=flags)
            bytes_ = torch.frombuffer(memory, dtype=torch.uint8)[:storage_bytes]
            self._storages[number] = bytes_.untyped_storage()
        tensor = torch.empty(0, dtype=dtype).set_(self._storages[number], offset, shape, stride)
        return nn.Parameter(tensor, requires_grad=False) if parameter else tensor
