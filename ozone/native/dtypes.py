"""Codes of activation types in kernels' integer fields, as in ``csrc/kernels/types.h``."""

from __future__ import annotations

DTYPE_CODES: dict[str, int] = {"float32": 0, "bfloat16": 1, "float16": 2}
