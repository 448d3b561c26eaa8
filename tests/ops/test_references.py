"""The small ops against their formulas in double precision."""

from __future__ import annotations

import pytest
import torch

from ozone.ops.activation import gelu_tanh_and_mul, silu_and_mul
from ozone.ops.norm import fused_add_rms_norm, rms_norm

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _formula(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_rounds_once(dtype: torch.dtype) -> None:
    x, weight = (torch.randn(5, 64) * 3).to(dtype), torch.randn(64)
    expected = _formula(x, weight)
    torch.testing.assert_close(
        rms_norm(x, weight, 1e-5).double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6
    )


def test_rms_norm_of_large_float16_does_not_overflow() -> None:
    x = torch.full((1, 64), 60000.0, dtype=torch.float16)
    assert torch.equal(rms_norm(x, torch.ones(64), 1e-5), torch.ones(1, 64, dtype=torch.float16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_add_rms_norm_is_an_addition_and_a_norm(dtype: torch.dtype) -> None:
    x, residual, weight = torch.randn(5, 64).to(dtype), torch.randn(5, 64).to(dtype), torch.randn(64)
    normalized, total = fused_add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)
    assert torch.equal(normalized, rms_norm(x + residual, weight, 1e-5))


def test_gated_activations_gate_with_the_first_half() -> None:
    x = torch.randn(3, 8)
    gate, up = x[:, :4].double(), x[:, 4:].double()
    torch.testing.assert_close(silu_and_mul(x).double(), gate * gate.sigmoid() * up, rtol=1e-5, atol=1e-6)
    gelu = gate * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
    torch.testing.assert_close(gelu_tanh_and_mul(x).double(), gelu * up, rtol=1e-5, atol=1e-6)
