"""Native activations and element-wise ops against their references, on every instruction set."""

from __future__ import annotations

import math

import pytest
import torch

from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1536), (3, 1), (5, 17), (0, 64), (40, 2048)]


def _randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 4).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_tanh_and_mul"])
def test_gated_activations(isa: str, name: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Within two roundings of the type; the reference's tanh cancels for large negative numbers."""
    x = _randn(shape[0], 2 * shape[1], dtype=dtype)
    op = OPS[name]
    tolerance = max(2 * torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(op.call(x), op.reference(x), rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_tanh_and_mul"])
def test_activations_keep_their_relative_precision(isa: str, name: str) -> None:
    gate = torch.cat((torch.linspace(-9, 20, 20001), torch.tensor([0.0, 1e-30, -1e-30, 200.0, 1e30])))
    actual = OPS[name].call(torch.cat((gate, torch.ones_like(gate)))[None])[0].double()
    wide = gate.double()
    u = wide / 2 if name == "silu_and_mul" else (wide + 0.044715 * wide**3) * math.sqrt(2 / math.pi)
    expected = wide * torch.sigmoid(2 * u)
    assert ((actual - expected).abs() <= (3 + 4 * u.abs()) * 1e-7 * expected.abs()).all()


@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_tanh_and_mul"])
def test_activations_of_special_numbers(isa: str, name: str) -> None:
    gate = torch.tensor([float("inf"), float("nan"), -1e4, -3e38, 3e38])
    inf, nan, small, smaller, large = OPS[name].call(torch.cat((gate, torch.ones(5)))[None])[0].tolist()
    assert (inf, small, smaller) == (float("inf"), 0.0, 0.0)
    assert math.isnan(nan) and large == gate[-1].item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_scale_and_softcap(isa: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, y = _randn(*shape, dtype=dtype), _randn(*shape, dtype=dtype).flip(0)
    for name, argument in (("add", y), ("scale", 0.3)):
        assert torch.equal(OPS[name].call(x, argument), OPS[name].reference(x, argument))
    op = OPS["softcap"]
    tolerance = max(torch.finfo(dtype).eps, 2e-6)
    torch.testing.assert_close(op.call(x, 5.0), op.reference(x, 5.0), rtol=tolerance, atol=2e-6)
