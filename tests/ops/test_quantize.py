"""Quantization of activations: what comes back is near, and zeros stay zeros."""

from __future__ import annotations

import pytest
import torch

from ozone.ops.quantize import quantize_int8_group


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "cols", "group"), [(0, 64, 32), (1, 32, 32), (5, 512, 256), (3, 96, 32)])
def test_int8_groups_are_within_half_a_step(tokens: int, cols: int, group: int, dtype: torch.dtype) -> None:
    x = (torch.randn(tokens, cols, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    integers, scale, sums = quantize_int8_group(x, group)
    assert integers.dtype == torch.int8 and scale.dtype == torch.float32 and sums.dtype == torch.int16
    assert scale.shape == (tokens, cols // group)
    step = scale.double().repeat_interleave(group, dim=1)
    assert ((integers * step - x.double()).abs() <= 0.501 * step).all()
    assert torch.equal(sums.int(), integers.view(tokens, cols // 16, 16).int().sum(-1))


def test_int8_groups_of_zeros_and_of_tiny_numbers() -> None:
    x = torch.zeros(1, 96)
    x[0, 40], x[0, 70] = 1e-44, -1e-35
    integers, scale, _ = quantize_int8_group(x, 32)
    assert not integers[:, :64].any() and bool((scale > 0).all())
    assert int(integers[0, 70]) == -127
