"""A fused op over rows gives the bits of its parts, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ozone.ops.registry import OPS
from ozone.ops.schemas import FUSED

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OVER_ROWS = [name for name, parts in FUSED.items() if parts[0] != "attention"]
SHAPES = [(1, 576), (0, 64), (5, 96), (40, 2048)]


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2).to(dtype)


def _arguments(name: str, rows: int, cols: int, dtype: torch.dtype) -> list[Any]:
    """Of each part, those that are its own, in order."""
    source, *targets = FUSED[name]
    arguments: list[Any] = [_randn(rows, 2 * cols, dtype=dtype)]
    if source.endswith("rms_norm"):
        arguments = [_randn(rows, cols, dtype=dtype), _randn(cols), 1e-5]
    if source == "fused_add_rms_norm":
        arguments.insert(1, _randn(rows, cols, dtype=dtype).flip(0))
    for target in targets:
        if target == "pad":
            arguments.append(128)
        elif target.endswith("static"):
            arguments.append(torch.tensor([0.013]))
        elif target.endswith("group"):
            arguments.append(128 if "pad" in targets else 32)
    return arguments


def _composed(
    name: str, kind: Callable[[str], Callable[..., Any]], arguments: list[Any]
) -> list[torch.Tensor]:
    results: list[torch.Tensor] = []
    for part in FUSED[name]:
        count = len(OPS[part].schema.arguments) - len(results[:1])
        own, arguments = arguments[:count], arguments[count:]
        made = kind(part)(*results[:1], *own)
        results = [*(made if isinstance(made, tuple) else (made,)), *results[1:]]
    assert not arguments
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OVER_ROWS)
def test_a_fused_op_equals_its_parts(isa: str, name: str, dtype: torch.dtype) -> None:
    for rows, cols in SHAPES:
        arguments = _arguments(name, rows, cols, dtype)
        for kind in (lambda op: OPS[op].call), (lambda op: OPS[op].reference):
            actual = kind(name)(*arguments)
            actual = actual if isinstance(actual, tuple) else (actual,)
            for a, e in zip(actual, _composed(name, kind, arguments), strict=True):
                assert a.dtype == e.dtype and a.shape == e.shape and a.is_contiguous()
                assert torch.equal(*(t.view(torch.uint8) if t.itemsize == 1 else t for t in (a, e)))


def test_a_row_must_fit_in_a_thread(isa: str) -> None:
    x = torch.empty(1, (1 << 19) + 32)
    with pytest.raises(ValueError, match="524320 columns are more than the 524288 of a fused op"):
        OPS["rms_norm_quantize_fp8_token"].call(x, x[0], 1e-5)
