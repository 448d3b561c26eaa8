"""Levels as a table; one frozen, resolved config; where every value came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ozone.config.args import EngineArgs
    from ozone.config.objects import CompilationConfig, KernelConfig, PassConfig
    from ozone.config.schema import CompilationMode, CUDAGraphMode

__all__ = [
    "CUDAGraphMode",
    "CompilationConfig",
    "CompilationMode",
    "EngineArgs",
    "KernelConfig",
    "PassConfig",
]

_LAZY = {
    "CompilationConfig": "ozone.config.objects",
    "PassConfig": "ozone.config.objects",
    "KernelConfig": "ozone.config.objects",
    "CompilationMode": "ozone.config.schema",
    "CUDAGraphMode": "ozone.config.schema",
    "EngineArgs": "ozone.config.args",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ozone.config' has no attribute {name!r}")
