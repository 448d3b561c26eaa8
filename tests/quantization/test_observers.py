"""Scales found by calibration: what counting 16-bit patterns finds is what all values would give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ozone.quantization.observers import InputValues, ValuesAndProducts

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


def test_the_scale_for_e4m3_clips_nothing_and_puts_large_values_near_its_numbers() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 16).bfloat16()
    x[:8, 3], x[:8, 5] = 300.0, 225.0
    observer = ValuesAndProducts(16)
    observer.see(x[:100])
    observer.see(x[100:])
    found, values = observer.scale(), x.double()

    def error(scale: float) -> float:
        return float(((values / scale).to(torch.float8_e4m3fn).double() * scale - values).square().sum())

    scales = [300.0 * 2 ** (i / 60) / 448 for i in range(61)]
    assert found == pytest.approx(min(scales, key=error), rel=1e-6)
    assert scales[0] <= found <= scales[-1] * (1 + 1e-9)
    assert error(found) < 0.9 * error(scales[0])
    torch.testing.assert_close(observer.products, x.float().T @ x.float())


@pytest.mark.parametrize("kind", [InputValues, ValuesAndProducts])
def test_an_input_that_is_always_zero_has_the_scale_one(
    kind: type[InputValues] | type[ValuesAndProducts],
) -> None:
    observer = kind(8)
    assert observer.scale() == 1.0
    observer.see(torch.zeros(2, 8, dtype=torch.bfloat16))
    assert observer.scale() == 1.0


def test_rows_may_lie_apart() -> None:
    wide = torch.randn(6, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    apart, together = InputValues(8), InputValues(8)
    apart.see(wide[:, :8])
    together.see(wide[:, :8].contiguous())
    assert apart.scale() == together.scale()
