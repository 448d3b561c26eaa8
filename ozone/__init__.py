"""Ozone: LLM inference and serving on ordinary CPUs, with start-up time traded for speed by one flag.

`from ozone import LLM, SamplingParams` works; both are imported on first use, so that
`import ozone` alone costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ozone.version import __version__

if TYPE_CHECKING:
    from ozone.engine.sampling_params import SamplingParams
    from ozone.entrypoints.llm import LLM

__all__ = ["LLM", "SamplingParams", "__version__"]

_LAZY = {"LLM": "ozone.entrypoints.llm", "SamplingParams": "ozone.engine.sampling_params"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ozone' has no attribute {name!r}")
