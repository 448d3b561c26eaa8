"""Python face of the native library. Importing it never fails: `library()` is None where it was not built."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from ozone.config.platform import PlatformFacts
from ozone.errors import ConfigError
from ozone.platforms import cpu

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_MODULE = "ozone.native._native"


def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None or not os.path.exists(path):
        raise ConfigError(f"OZONE_NATIVE={path}: there is no such library")
    native = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = native
    spec.loader.exec_module(native)
    return native


@functools.cache
def library() -> ModuleType | None:
    """The compiled extension module, or None in a checkout that was not built or under ``OZONE_NATIVE=0``.

    ``OZONE_NATIVE=<file>`` is another build of it.

    Raises: `ConfigError` where ``OZONE_ISA`` names an instruction set that this machine or build lacks.
    """
    choice = os.environ.get("OZONE_NATIVE", "")
    if choice == "0":
        return None
    try:
        native = _load(choice) if choice.endswith(".so") else importlib.import_module(_MODULE)
    except ModuleNotFoundError:
        return None
    isa = os.environ.get("OZONE_ISA")
    if isa and isa not in native.isas():
        raise ConfigError(f"OZONE_ISA={isa}: this machine and build have {', '.join(native.isas())}")
    if isa:
        native.set_isa(isa)
    return native


def build_info() -> dict[str, str] | None:
    """Compiler and architecture of the native library, or None where there is none."""
    native = library()
    return None if native is None else dict(native.build_info())


def platform_facts() -> PlatformFacts:
    """The facts of this machine, with what the native library adds to them."""
    facts, native = cpu.detect(), library()
    if native is None:
        return facts
    return dataclasses.replace(facts, native=True, isa=native.isa(), kernels=frozenset(native.kernels()))


class Kernel(Protocol):
    """A kernel of the library: it takes one argument for each of its fields, addresses as integers."""

    def __call__(self, *fields: float) -> None:
        """Launch it on the thread team."""

    def alone(self, *fields: float) -> None:
        """Run it on the calling thread."""


@functools.cache
def _kernels() -> dict[str, Kernel]:
    native = library()
    return {} if native is None else native.kernels()


def kernel(name: str) -> Kernel:
    """The kernel of that name.

    Raises: `KeyError` where the library has no such kernel; see `library` for whether there is one at all.
    """
    return _kernels()[name]


def set_num_threads(size: int) -> None:
    """Give the thread team that size, after the launch under way. Does nothing where there is no library.

    Raises: `ConfigError` where the system has not so many threads, or no memory for them.
    """
    native = library()
    if native is None or native.num_threads() == size:
        return
    try:
        native.set_num_threads(size)
    except (RuntimeError, MemoryError) as error:
        raise ConfigError(f"--num-threads {size}: the system does not give so many ({error})") from error


def set_ways(table: list[tuple[int, list[tuple[int, int]]]]) -> None:
    """Have launches of this thread take these ways; see ``set_ways`` of the library, if there is one."""
    native = library()
    if native is not None:
        native.set_ways(table)


def allocate(name: str, size: int) -> NDArray[np.uint8]:
    """A memory region of `size` zero bytes, page-aligned, named for what it holds.

    Raises: `ConfigError` where the system does not give so much.
    """
    native = library()
    try:
        if native is None:
            import numpy as np

            return np.zeros(size, np.uint8)
        region: NDArray[np.uint8] = native.allocate(name, size)
    except MemoryError:
        raise ConfigError(
            f"the system does not give {size / 1e6:,.0f} MB for {name} (a limit such as ulimit -v, strict "
            "overcommit, or too little memory): take a smaller --kv-cache-memory-bytes, or raise the limit"
        ) from None
    return region
