"""Scales found by calibration: what counting 16-bit patterns finds is what all values would give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ozone.quantization.observers import InputValues

INT8_MAX = 127.0


def _error(values: Tensor, scale: float) -> float:
    wide = values.to(torch.float64)
    return float(((wide / scale).round().clamp(-128, 127) * scale - wide).square().sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_of_sixty_ends_of_the_range_the_scale_has_the_least_squared_error(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    windows = [torch.randn(2048, 48).to(dtype) for _ in range(3)]
    windows[1][0, 0] = 10.0
    observer = InputValues(48)
    for x in windows:
        observer.see(x)
    found = observer.scale()
    kept = torch.bfloat16 if dtype is torch.float32 else dtype
    values = torch.cat(windows).flatten().to(kept).double()
    largest = float(values.abs().max())
    scales = [largest * 0.02 ** (i / 59) / INT8_MAX for i in range(60)]
    assert found == pytest.approx(min(scales, key=lambda scale: _error(values, scale)), rel=1e-6)
    assert found < 0.9 * scales[0], "a single large value is clipped"


def test_an_input_that_is_always_zero_has_the_scale_one() -> None:
    observer = InputValues(8)
    assert observer.scale() == 1.0
    observer.see(torch.zeros(2, 8, dtype=torch.bfloat16))
    assert observer.scale() == 1.0


def test_rows_may_lie_apart() -> None:
    wide = torch.randn(6, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    apart, together = InputValues(8), InputValues(8)
    apart.see(wide[:, :8])
    together.see(wide[:, :8].contiguous())
    assert apart.scale() == together.scale()
