"""What decides the programs of a step, as a key: equal keys, equal programs.

Not in it, since no program depends on them: the values of weights, the number of blocks of the KV cache, the
number of threads, and what concerns graphs alone.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ozone.compilation.artifact_file import FORMAT
from ozone.compilation.described import Describer, metadata
from ozone.compilation.lowering import Capacity
from ozone.compilation.step import KV_CACHE_PREFIX, Step, StepInputs
from ozone.config.schema import CompilationConfig
from ozone.native import library

# Rooms whose code has a say in what a graph and its launches are.
_ROOMS = ("config", "native", "ops", "layers", "quantization", "models", "compilation")
# Settings that no program depends on.
_IRRELEVANT = frozenset(
    {
        "cache_dir",
        "debug_dump_path",
        "cudagraph_mode",
        "cudagraph_capture_sizes",
        "max_cudagraph_capture_size",
        "cudagraph_num_of_warmups",
    }
)


def key_parts(
    step: Step, inputs: StepInputs, config: CompilationConfig, capacity: Capacity
) -> dict[str, Any]:
    """All that decides the programs, as JSON has it; what is long is only digested.

    Raises: `UndescribableError` for a model with attributes of other kinds than values, containers, functions
        and plain objects.
    """
    return {
        "format": FORMAT,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **_native_parts(),
        "code": code_digest(),
        "compilation": _settings(config),
        "capacity": dataclasses.astuple(capacity),
        "inputs": [[name, *metadata(x)] for name, x in inputs._asdict().items()],
        "constants": _digest(list(_constants(step))),
        "model": _digest(Describer().modules(step.model)),
    }


def _native_parts() -> dict[str, Any]:
    native = library()
    if native is None:
        return {"isa": None, "native": None}
    kernels = [[k.name, k.id, k.version, k.fields] for k in native.kernels().values()]
    return {"isa": native.isa(), "native": {**native.build_info(), "kernels": _digest(kernels)}}


def key_of(parts: Mapping[str, Any]) -> str:
    """The key: 64 hexadecimal digits."""
    return _digest(parts)


@functools.cache
def code_digest() -> str:
    """A digest of the Python code that decides what is traced, rewritten and launched."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for room in _ROOMS:
        for file in sorted((package / room).rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(package)} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def _settings(config: CompilationConfig) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    return {name: _plain(value) for name, value in settings.items() if name not in _IRRELEVANT}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(name): _plain(value[name]) for name in value}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _constants(step: Step) -> Iterator[list[Any]]:
    storages: dict[int, int] = {}
    for name, x in step.constants():
        storage = x.untyped_storage()
        shared = storages.setdefault(storage.data_ptr(), len(storages))
        dtype, shape, stride = metadata(x)
        if name.startswith(KV_CACHE_PREFIX):  # its first dimension is the number of blocks
            yield [name, dtype, shape[1:], stride, x.storage_offset(), shared]
        else:
            yield [name, dtype, shape, stride, x.storage_offset(), shared, storage.nbytes()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
