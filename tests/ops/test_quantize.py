"""Native quantization and padding: the bits of the references, on every instruction set."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ozone.ops.quantize import E4M3
from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 576), (3, 1), (5, 17), (0, 64), (33, 2048)]
GROUPED = [(1, 256, 32), (7, 512, 256), (3, 384, 128), (0, 256, 32), (2, 48, 48), (5, 96, 16)]


def _rows(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different sizes."""
    generator = torch.Generator().manual_seed(sum(shape))
    rows = torch.randn(shape, generator=generator)
    sizes = torch.randint(-12, 6, (shape[0], 1), generator=generator)
    return (rows * 2.0**sizes).to(dtype)


def _bits(result: Any) -> list[torch.Tensor]:
    results = result if isinstance(result, tuple) else (result,)
    return [tensor.view(torch.uint8) if tensor.dtype is E4M3 else tensor for tensor in results]


def _assert_equal(name: str, *arguments: Any) -> None:
    op = OPS[name]
    actual, expected = _bits(op.call(*arguments)), _bits(op.reference(*arguments))
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype and a.is_contiguous()
        assert torch.equal(a, e)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("code", ["fp8", "int8"])
def test_with_a_given_scale_and_with_one_per_token(
    isa: str, code: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    x = _rows(*shape, dtype=dtype)
    for scale in (1.0, 0.01, 3.7e-3, 2.0**-130, 1e30):
        _assert_equal(f"quantize_{code}_static", x, torch.tensor([scale]))
    _assert_equal(f"quantize_{code}_token", x)


@pytest.mark.parametrize("shape", GROUPED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_with_a_scale_per_group(isa: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    rows, cols, group = shape
    x = _rows(rows, cols, dtype=dtype)
    _assert_equal("quantize_fp8_group", x, group)
    _assert_equal("quantize_int8_group", x, group)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols", "group"), [(0, 64, 32), (1, 32, 32), (5, 512, 256), (3, 96, 32)])
def test_int8_groups_are_within_half_a_step(rows: int, cols: int, group: int, dtype: torch.dtype) -> None:
    x = _rows(rows, cols, dtype=dtype)
    q, scale, sums = OPS["quantize_int8_group"].reference(x, group)
    step = scale.double().repeat_interleave(group, dim=1)
    assert ((q * step - x.double()).abs() <= 0.501 * step).all()
    assert torch.equal(sums.int(), q.view(rows, cols // 16, 16).int().sum(-1))


def test_every_bfloat16_value_rounds_to_fp8_as_in_torch(isa: str) -> None:
    """Subnormals, ties, saturation, both zeros, infinities and NaN among them."""
    x = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16).view(256, 256)
    for scale in (1.0, 0.0625, 0.3, 117.0):
        expected = (x.float() / scale).clamp(-448, 448).to(E4M3).view(torch.uint8)
        q = OPS["quantize_fp8_static"].call(x, torch.tensor([scale]))
        assert torch.equal(q.view(torch.uint8), expected)


@pytest.mark.parametrize("cols", [576, 2048])
def test_every_quotient_rounds_as_in_torch(isa: str, cols: int) -> None:
    """Quotients beside ties between two codes, where one unit in the last place decides."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(1, generator=generator) + 1e-3
    for code, ties in (("int8", torch.arange(-129, 129) + 0.5), ("fp8", _e4m3_ties())):
        near = (ties * scale)[torch.randint(len(ties), (64, cols), generator=generator)]
        bits = near.view(torch.int32) + torch.randint(-2, 3, near.shape, generator=generator).int()
        _assert_equal(f"quantize_{code}_static", bits.view(torch.float32), scale)


def _e4m3_ties() -> torch.Tensor:
    values = torch.arange(0x7F, dtype=torch.uint8).view(E4M3).float()
    return (values[1:] + values[:-1]) / 2


@pytest.mark.parametrize("code", ["fp8", "int8"])
def test_a_row_with_nan_has_a_scale_that_says_so_and_leaves_others_alone(isa: str, code: str) -> None:
    x = _rows(3, 100, dtype=torch.bfloat16)
    x[1, 70] = float("nan")
    q, scale = OPS[f"quantize_{code}_token"].call(x)
    assert scale.isnan().flatten().tolist() == [False, True, False]
    expected = OPS[f"quantize_{code}_token"].reference(x[::2].contiguous())
    assert torch.equal(q[::2].float(), expected[0].float())
    assert torch.equal(scale[::2], expected[1])


def test_rows_of_zeros_and_of_subnormal_numbers_have_a_scale(isa: str) -> None:
    x = torch.zeros(2, 64)
    x[1, 3] = 1e-42
    for name in ("quantize_fp8_token", "quantize_int8_token"):
        q, scale = OPS[name].call(x)
        assert scale.flatten().tolist() == [2.0**-126] * 2
        assert not q.float().any()


def test_rows_may_be_part_of_wider_ones(isa: str) -> None:
    wide = _rows(6, 300, dtype=torch.bfloat16)
    for x in (wide[:, 20:276], wide[::2], wide.t()):
        _assert_equal("quantize_fp8_token", x)
        _assert_equal("quantize_int8_static", x, torch.tensor([0.1]))
        _assert_equal("pad", x, 64)


@pytest.mark.parametrize(("cols", "multiple"), [(1, 8), (100, 64), (128, 64), (130, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pad(isa: str, dtype: torch.dtype, cols: int, multiple: int) -> None:
    for rows in (0, 1, 5):
        _assert_equal("pad", _rows(rows, cols, dtype=dtype), multiple)


@pytest.mark.parametrize("kind", ["call", "reference"])
def test_groups_must_divide_the_columns(kind: str) -> None:
    for name, group in (("quantize_fp8_group", 128), ("quantize_int8_group", 24)):
        with pytest.raises(ValueError, match="72 columns cannot be divided into groups of"):
            getattr(OPS[name], kind)(torch.zeros(2, 72), group)
