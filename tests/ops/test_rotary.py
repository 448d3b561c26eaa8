"""Rotary embedding against complex numbers, and natively on every instruction set against its reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ozone.ops.registry import OPS
from ozone.ops.rotary import rotary_embedding

pytestmark = pytest.mark.pairwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _table(positions: int, rotary_dim: int) -> Tensor:
    angles = _randn(positions, rotary_dim // 2)
    return torch.cat((angles.cos(), angles.sin()), 1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [16, 8])
def test_pairs_of_columns_turn_as_complex_numbers(rotary_dim: int, interleaved: bool) -> None:
    q, k, positions = _randn(3, 4, 16), _randn(3, 2, 16), torch.tensor([7, 0, 2])
    angles = _randn(9, rotary_dim // 2)
    table = torch.cat((angles.cos(), angles.sin()), 1)

    def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x[..., :rotary_dim]
        return (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)  # type: ignore[return-value]

    for before, after in zip((q, k), rotary_embedding(q, k, positions, table, interleaved), strict=True):
        turned = torch.complex(*(part.contiguous() for part in pairs(before))) * torch.polar(
            torch.ones(3, 1, rotary_dim // 2), angles[positions][:, None]
        )
        torch.testing.assert_close(torch.complex(*(part.contiguous() for part in pairs(after))), turned)
        assert torch.equal(after[..., rotary_dim:], before[..., rotary_dim:])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("head_dim", "rotary_dim"),
    [(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (80, 32), (20, 10), (2, 2)],
)
def test_rotary_embedding_gives_the_bits_of_its_reference(
    isa: str, head_dim: int, rotary_dim: int, dtype: torch.dtype, interleaved: bool
) -> None:
    """q and k as a merged linear leaves them."""
    merged = _randn(7, 9, head_dim, dtype=dtype)
    arguments = (merged[:, :5], merged[:, 5:7], torch.tensor([3, 0, 1, 2, 8, 8, 4]), _table(9, rotary_dim))
    op = OPS["rotary_embedding"]
    actual, expected = op.call(*arguments, interleaved), op.reference(*arguments, interleaved)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.is_contiguous()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("tokens", [0, 1, 300])
def test_any_number_of_tokens_rotates(isa: str, tokens: int) -> None:
    arguments = (_randn(tokens, 9, 64), _randn(tokens, 3, 64), torch.arange(tokens), _table(300, 64), False)
    op = OPS["rotary_embedding"]
    for ours, theirs in zip(op.call(*arguments), op.reference(*arguments), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 64), (128, 64), (20, 10)])
def test_qk_norm_rotary_embedding_gives_the_bits_of_its_parts(
    isa: str, head_dim: int, rotary_dim: int, dtype: torch.dtype, interleaved: bool
) -> None:
    merged = _randn(7, 9, head_dim, dtype=dtype)
    q, k, weights = merged[:, :5], merged[:, 5:7], (_randn(head_dim), _randn(head_dim) + 1)
    tail = (torch.arange(7), _table(9, rotary_dim), interleaved)
    normalized = [OPS["rms_norm"].call(x, w, 1e-6) for x, w in zip((q, k), weights, strict=True)]
    composed = OPS["rotary_embedding"].call(*normalized, *tail)
    fused = OPS["qk_norm_rotary_embedding"].call(q, k, *weights, 1e-6, *tail)
    for ours, theirs in zip(fused, composed, strict=True):
        assert torch.equal(ours, theirs)
