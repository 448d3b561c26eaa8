"""The vocabulary as a whole: schemas, registration, and what a call of a node costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import ozone.ops
from ozone.ops.kv_cache import CacheLayout, KVCache
from ozone.ops.linear_gguf import packed_gguf_shape
from ozone.ops.linear_int8 import pack_int8
from ozone.ops.quantize import quantize_int8_group
from ozone.ops.registry import OPS
from ozone.ops.schemas import FUSED, SCHEMAS

pytestmark = pytest.mark.pairwise

for _module in pkgutil.iter_modules(ozone.ops.__path__):
    importlib.import_module(f"ozone.ops.{_module.name}")


def _rows(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _bytes(*shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(1))


def _packed_gguf(segments: list[int], cols: int) -> torch.Tensor:
    """Packed weights with scales below 1: any bytes are weights."""
    shape = packed_gguf_shape(segments, cols)
    return torch.randint(0, 40, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


_SLOTS = torch.tensor([16, 17, 40])


def _q_and_k() -> tuple[torch.Tensor, torch.Tensor]:
    return _rows(3, 4, 8), _rows(3, 2, 8)


def _cache(dtype: torch.dtype = torch.float32) -> KVCache:
    cache = CacheLayout(4, 16, 2, 8, dtype).allocate("test")
    for part in cache[:2]:
        part.copy_(_rows(*part.shape))
    return cache


SAMPLES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "embedding": lambda: (torch.tensor([3, 0, 3]), _rows(5, 8), 2.0, 8),
    "linear": lambda: (_rows(3, 8), _rows(5, 8), _rows(5), _rows(3, 5), 5),
    "linear_int8": lambda: (
        _bytes(3, 8),
        _rows(3, 1),
        pack_int8([_bytes(5, 8)]),
        _rows(5),
        _rows(5),
        _rows(3, 5).bfloat16(),
        5,
        torch.bfloat16,
    ),
    "logits": lambda: (_rows(3, 8), _rows(5, 8), 1.5, 5),
    "linear_fp8": lambda: (
        _rows(3, 8).to(torch.float8_e4m3fn),
        _rows(3, 1),
        _rows(5, 8).to(torch.float8_e4m3fn),
        _rows(5),
        _rows(5),
        _rows(3, 5),
        5,
        torch.float32,
    ),
    "gather_columns": lambda: (_rows(3, 8), torch.arange(7, -1, -1, dtype=torch.int32)),
    "linear_int4": lambda: (
        _rows(3, 16),
        torch.arange(80, dtype=torch.uint8).view(5, 16) % 16,
        _rows(1, 2, 48),
        None,
        _rows(5),
        _rows(3, 5),
        5,
        8,
    ),
    "linear_gguf": lambda: (
        *quantize_int8_group(_rows(3, 256), 32),
        _packed_gguf([3, 50, 14, 5], 256),
        [3, 50, 14, 5],
        _rows(55),
        _rows(3, 55),
        55,
        torch.float32,
    ),
    "logits_gguf": lambda: (
        *quantize_int8_group(_rows(3, 64), 32),
        _packed_gguf([8, 50], 64),
        [8, 50],
        30.0,
        50,
    ),
    "embedding_gguf": lambda: (
        torch.tensor([3, 0, 3]),
        _packed_gguf([12, 50], 256),
        [12, 50],
        2.0,
        256,
        torch.bfloat16,
    ),
    "rms_norm": lambda: (_rows(3, 8), _rows(8), 1e-5),
    "fused_add_rms_norm": lambda: (_rows(3, 8), _rows(3, 8), _rows(8), 1e-5),
    "rotary_embedding": lambda: (*_q_and_k(), torch.tensor([0, 1, 5]), _rows(6, 8), False),
    "qk_norm_rotary_embedding": lambda: (
        *_q_and_k(),
        _rows(8),
        _rows(8),
        1e-5,
        torch.tensor([0, 1, 5]),
        _rows(6, 8),
        True,
    ),
    "silu_and_mul": lambda: (_rows(3, 8),),
    "gelu_tanh_and_mul": lambda: (_rows(3, 8),),
    "add": lambda: (_rows(3, 8), _rows(3, 8)),
    "scale": lambda: (_rows(3, 8), 0.3),
    "softcap": lambda: (_rows(3, 8), 5.0),
    "quantize_fp8_static": lambda: (_rows(3, 32), torch.tensor([0.1])),
    "quantize_fp8_token": lambda: (_rows(3, 32),),
    "quantize_fp8_group": lambda: (_rows(3, 32), 16),
    "quantize_int8_static": lambda: (_rows(3, 32), torch.tensor([0.1])),
    "quantize_int8_token": lambda: (_rows(3, 32),),
    "quantize_int8_group": lambda: (_rows(3, 32), 16),
    "pad": lambda: (_rows(3, 8), 32),
    "kv_write": lambda: (*_q_and_k()[1:], *_q_and_k()[1:], *_cache(), _SLOTS),
    "rotary_embedding_kv_write": lambda: (
        *_q_and_k(),
        _rows(3, 2, 8),
        torch.tensor([0, 1, 5]),
        _rows(6, 8),
        False,
        *_cache(),
        _SLOTS,
    ),
    "qk_norm_rotary_embedding_kv_write": lambda: (
        *_q_and_k(),
        _rows(3, 2, 8),
        _rows(8),
        _rows(8),
        1e-5,
        torch.tensor([0, 1, 5]),
        _rows(6, 8),
        False,
        *_cache(torch.int8),
        _SLOTS,
    ),
    "attention": lambda: (
        _rows(3, 4, 8),
        *_cache(),
        torch.empty(0),
        torch.tensor([[1, 2], [3, 0]]),
        torch.tensor([0, 1, 3]),
        torch.tensor([20, 10]),
        0.3,
        None,
        None,
    ),
}


def _fused_sample(parts: tuple[str, ...]) -> tuple[Any, ...]:
    """The first part's sample, whose rows become 32 columns, then the further arguments of the others."""
    first, *others = (SAMPLES[part]() for part in parts)
    if parts[0].endswith("rms_norm"):
        first = tuple(
            _wide(argument) if isinstance(argument, torch.Tensor) else argument for argument in first
        )
    elif parts[0] != "attention":  # 4 heads of 8
        first = (_rows(3, 64), *first[1:])
    return first + tuple(argument for other in others for argument in other[1:])


def _wide(rows: torch.Tensor) -> torch.Tensor:
    return rows.repeat_interleave(4, -1)


SAMPLES |= {
    name: (lambda parts=parts: _fused_sample(parts))  # type: ignore[misc]
    for name, parts in FUSED.items()
}


def test_every_schema_has_an_op_and_every_op_a_sample() -> None:
    assert set(OPS) == set(SCHEMAS) == set(SAMPLES)


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_op_keeps_the_promises_of_its_schema(name: str) -> None:
    """Mutation and aliasing as declared, and fake results shaped like real ones."""
    node = OPS[name].node
    assert node._schema.is_mutable == SCHEMAS[name].mutates
    arguments = SAMPLES[name]()
    # The schema check multiplies tensors, which torch cannot do in float8.
    float8 = any(getattr(argument, "dtype", None) is torch.float8_e4m3fn for argument in arguments)
    checks = ("test_faketensor",) if float8 else ("test_schema", "test_faketensor")
    torch.library.opcheck(node, arguments, test_utils=checks)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_node_computes_what_the_reference_computes(name: str) -> None:
    torch.testing.assert_close(OPS[name].node(*SAMPLES[name]()), OPS[name].reference(*SAMPLES[name]()))


def test_schemas_can_be_read_without_torch() -> None:
    code = "import sys, ozone.ops.schemas; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
