"""The launches of a program as lines that can be read: a kernel and its fields, with memory by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ozone.native import library

_POINTERS = ("input", "output", "state")


def launch_lines(program: Any, memory: Sequence[str]) -> list[str]:
    """One line for each launch, as in ``rms_norm(x=pool+64, rows=num_tokens, columns=576, eps=1e-05)``.

    A pointer is memory and bytes into it, a count is a number of the batch and a factor, the rest is fixed.

    Args:
        program: the native library's `Program`.
        memory: as in `Lowered.memory`.
    """
    native = library()
    assert native is not None, "programs are made where the native library is"
    kernels, spans = native.kernels(), (None, *memory, "pool")
    lines = []
    for kernel, values in program.launches:
        fields = []
        for (name, kind), (where, value) in zip(kernels[kernel].fields, values, strict=True):
            if kind in _POINTERS:
                text = "null" if spans[where] is None else f"{spans[where]}{f'+{value}' if value else ''}"
            elif kind == "count":
                text = native.BATCH_COUNTS[where] + (f"*{value}" if value != 1 else "")
            else:
                text = repr(value)
            fields.append(f"{name}={text}")
        lines.append(f"{kernel}({', '.join(fields)})")
    return lines
