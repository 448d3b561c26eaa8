"""Codes of types in kernels' integer fields, as in ``csrc/kernels/types.h`` and ``kv_cache.h``."""

from __future__ import annotations

DTYPE_CODES: dict[str, int] = {"float32": 0, "bfloat16": 1, "float16": 2}

# Of the KV cache: types of activations, and smaller ones.
CACHE_DTYPE_CODES: dict[str, int] = {**DTYPE_CODES, "int8": 3, "float8_e4m3fn": 4}
