"""Native norms against their references, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 576), (3, 1), (5, 17), (2, 100), (0, 64), (40, 2048), (1, 7)]


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """One rounding of the type, which a sum in another order may tip."""
    tolerance = max(torch.finfo(expected.dtype).eps, 4e-7)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(isa: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, weight = _randn(*shape, dtype=dtype) * 3, _randn(shape[1])
    op = OPS["rms_norm"]
    _assert_close(op.call(x, weight, 1e-5), op.reference(x, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_rms_norm_of_heads_reads_views_of_wider_rows(isa: str, dtype: torch.dtype, head_dim: int) -> None:
    """q, k and v as a merged linear leaves them."""
    merged, weight = _randn(5, 7 * head_dim, dtype=dtype), _randn(head_dim)
    op = OPS["rms_norm"]
    for part in merged.unflatten(1, (7, head_dim)).split([3, 2, 2], dim=1):
        actual = op.call(part, weight, 1e-6)
        assert actual.is_contiguous()
        _assert_close(actual, op.reference(part, weight, 1e-6))


def test_rms_norm_of_transposed_heads_keeps_them_apart() -> None:
    x, weight = _randn(4, 3, 64).transpose(0, 1), _randn(64)
    op = OPS["rms_norm"]
    _assert_close(op.call(x, weight, 1e-6), op.reference(x, weight, 1e-6))
    columns = _randn(64, 3).t()
    _assert_close(op.call(columns, weight, 1e-6), op.reference(columns, weight, 1e-6))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_add_rms_norm(isa: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, residual, weight = _randn(*shape, dtype=dtype), _randn(*shape, dtype=dtype), _randn(shape[1])
    op = OPS["fused_add_rms_norm"]
    (actual, total), (expected, expected_total) = (
        function(x, residual, weight, 1e-5) for function in (op.call, op.reference)
    )
    assert torch.equal(total, expected_total)
    _assert_close(actual, expected)


def test_fused_add_rms_norm_of_views(isa: str) -> None:
    wide, weight = _randn(6, 300, dtype=torch.bfloat16), _randn(100)
    op = OPS["fused_add_rms_norm"]
    (actual, total), (expected, expected_total) = (
        function(wide[:, 50:150], wide[:, 200:], weight, 1e-5) for function in (op.call, op.reference)
    )
    assert torch.equal(total, expected_total)
    _assert_close(actual, expected)


def test_equal_rows_of_a_batch_have_equal_results(isa: str) -> None:
    row, weight = _randn(1, 1000, dtype=torch.bfloat16), _randn(1000)
    alone = OPS["rms_norm"].call(row, weight, 1e-5)
    together = OPS["rms_norm"].call(row.repeat(64, 1), weight, 1e-5)
    assert torch.equal(together, alone.expand(64, -1))
