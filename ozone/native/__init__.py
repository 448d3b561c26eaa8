"""Python face of the native library. Importing it never fails: `library()` is None where it was not built."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from types import ModuleType

from ozone.config.platform import PlatformFacts
from ozone.platforms import cpu


@functools.cache
def library() -> ModuleType | None:
    """The compiled extension module, or None in a checkout that was not built."""
    try:
        return importlib.import_module("ozone.native._native")
    except ModuleNotFoundError:
        return None


def build_info() -> dict[str, str] | None:
    """Compiler and architecture of the native library, or None where there is none."""
    native = library()
    return None if native is None else dict(native.build_info())


def platform_facts() -> PlatformFacts:
    """The facts of this machine, with what the native library adds to them."""
    return dataclasses.replace(cpu.detect(), native=library() is not None)
