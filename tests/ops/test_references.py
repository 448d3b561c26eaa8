"""The small ops against their formulas in double precision."""

from __future__ import annotations

import pytest
import torch

from ozone.ops.activation import gelu_tanh_and_mul, silu_and_mul
from ozone.ops.kv_cache import kv_write
from ozone.ops.norm import fused_add_rms_norm, rms_norm
from ozone.ops.rotary import rotary_embedding

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


@pytest.mark.parametrize("rotary_dim", [16, 8])
def test_rotary_embedding_turns_pairs_of_columns_as_complex_numbers(rotary_dim: int) -> None:
    q, k, positions = torch.randn(3, 4, 16), torch.randn(3, 2, 16), torch.tensor([7, 0, 2])
    angles = torch.randn(9, rotary_dim // 2)
    turned = rotary_embedding(q, k, positions, torch.cat((angles.cos(), angles.sin()), 1))
    for before, after in zip((q, k), turned, strict=True):
        pairs = torch.complex(*before[..., :rotary_dim].chunk(2, -1)) * torch.polar(
            torch.ones(3, 1, rotary_dim // 2), angles[positions][:, None]
        )
        torch.testing.assert_close(after[..., :rotary_dim], torch.cat((pairs.real, pairs.imag), -1))
        assert torch.equal(after[..., rotary_dim:], before[..., rotary_dim:])


def test_gated_activations_gate_with_the_first_half() -> None:
    x = torch.randn(3, 8)
    gate, up = x[:, :4].double(), x[:, 4:].double()
    torch.testing.assert_close(silu_and_mul(x).double(), gate * gate.sigmoid() * up, rtol=1e-5, atol=1e-6)
    gelu = gate * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
    torch.testing.assert_close(gelu_tanh_and_mul(x).double(), gelu * up, rtol=1e-5, atol=1e-6)


def test_kv_write_touches_only_its_slots() -> None:
    k_cache, v_cache = torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 4, 8)
    k, v = torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    token = kv_write(k, v, k_cache, v_cache, torch.tensor([9, 2]))
    assert token.numel() == 0
    for new, cache in ((k, k_cache), (v, v_cache)):
        assert torch.equal(cache[:, 2, 1], new[0])
        assert torch.equal(cache[:, 0, 2], new[1])
        assert int((cache != 0).any(-1).sum()) == 4
