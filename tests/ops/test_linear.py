"""Products in the activations' type and the gather from their tables, against double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ozone.native import kernel
from ozone.ops.embedding import embedding
from ozone.ops.linear import allocate_float, linear, logits, pack_float, step_columns, unpack_float
from ozone.ops.registry import DTYPES, NATIVE, OPS

pytestmark = pytest.mark.pairwise

TYPES = [torch.float32, torch.bfloat16, torch.float16]
# (tokens, rows, columns): one row; odd sizes; whole panels; more tokens than a tile, columns than a block.
SHAPES = [
    (0, 48, 16),
    (1, 1, 1),
    (1, 48, 64),
    (2, 47, 3),
    (3, 100, 77),
    (5, 49, 130),
    (8, 96, 576),
    (17, 130, 501),
    (33, 50, 2100),
    (40, 100, 128),
    (600, 100, 33),
]

needs_native = pytest.mark.skipif(not NATIVE, reason="the native library is not built")


def pack(plain: Tensor) -> Tensor:
    """Packed in two parts, as merged matrices are."""
    rows, cols = plain.shape
    packed = allocate_float("test", rows, cols, plain.dtype)
    for row, part in ((0, plain[: rows // 2]), (rows // 2, plain[rows // 2 :])):
        pack_float(packed, row, part)
    return packed


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (47, 3), (49, 64), (144, 101)])
def test_packing_loses_nothing_and_pads_with_zeros(dtype: torch.dtype, rows: int, cols: int) -> None:
    plain = normal(rows, cols, dtype=dtype)
    packed = pack(plain)
    assert torch.equal(unpack_float(packed, rows, cols), plain)
    assert torch.count_nonzero(packed) == torch.count_nonzero(plain)


@needs_native
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "rows", "cols"), SHAPES)
def test_linear_sums_in_float32_and_rounds_once(
    isa: str, dtype: torch.dtype, tokens: int, rows: int, cols: int
) -> None:
    x, weight = normal(tokens, cols, dtype=dtype), normal(rows, cols, dtype=dtype, seed=1)
    bias, residual = normal(rows, seed=2), normal(tokens, rows, dtype=dtype, seed=3)
    packed = pack(weight)
    product = x.double() @ weight.double().T
    # Rounding of the result, and of `cols` float32 sums in sequence, of numbers of about 1.
    tolerance = {"rtol": torch.finfo(dtype).eps, "atol": 5e-7 * (cols + 1)}
    for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
        expected = product + (0 if b is None else b.double()) + (0 if r is None else r.double())
        result = linear(x, packed, b, r, rows)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, **tolerance)


@needs_native
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "cols"), [(100, 77), (49, 3000)])
def test_a_row_does_not_depend_on_its_batch(isa: str, dtype: torch.dtype, rows: int, cols: int) -> None:
    """AMX tiles, which would sum in another order, are for whole tiles of columns."""
    x, packed = normal(70, cols, dtype=dtype), pack(normal(rows, cols, dtype=dtype, seed=1))
    whole = linear(x, packed, None, None, rows)
    for first, last in ((0, 1), (3, 8), (69, 70), (10, 27)):
        assert torch.equal(linear(x[first:last], packed, None, None, rows), whole[first:last])


@needs_native
@pytest.mark.parametrize("tokens", [90, 450])
def test_ranks_together_compute_what_one_computes(isa: str, tokens: int) -> None:
    """Also where there are more ranks than panels, or many tokens, so that ranks divide the tokens too."""
    run, fields = kernel("linear_float"), [field for field, _ in kernel("linear_float").fields]
    assert fields[:3] == ["out", "x", "weight"]
    x, packed = normal(tokens, 400, dtype=torch.bfloat16), pack(normal(60, 400, dtype=torch.bfloat16))
    together, alone = torch.zeros(2, tokens, 60)
    for out, call in ((together, run), (alone, run.alone)):
        pointers = (out.data_ptr(), x.data_ptr(), packed.data_ptr(), 0, 0)
        call(*pointers, tokens, 60, 400, 400, DTYPES[torch.bfloat16], DTYPES[torch.float32], 0.0)
    assert torch.equal(together, alone)


@needs_native
@pytest.mark.parametrize("dtype", TYPES)
def test_columns_beyond_what_scratch_memory_holds(isa: str, dtype: torch.dtype) -> None:
    cols = 140_001
    x, weight = normal(9, cols, dtype=dtype), normal(5, cols, dtype=dtype, seed=1)
    expected = x.double() @ weight.double().T
    result = logits(x, pack(weight), None, 5)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=0.02)


@needs_native
@pytest.mark.parametrize("dtype", TYPES)
def test_tokens_may_be_columns_of_something_wider(isa: str, dtype: torch.dtype) -> None:
    x, packed = normal(9, 200, dtype=dtype), pack(normal(50, 77, dtype=dtype, seed=1))
    view = x[:, 100:177]
    assert torch.equal(
        linear(view, packed, None, None, 50), linear(view.contiguous(), packed, None, None, 50)
    )


@needs_native
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_logits_are_float32_and_soft_capped(
    isa: str, dtype: torch.dtype, tokens: int, softcap: float | None
) -> None:
    x, weight = normal(tokens, 576, dtype=dtype), normal(1000, 576, dtype=dtype, seed=1)
    expected = x.double() @ weight.double().T
    if softcap is not None:
        expected = torch.tanh(expected / softcap) * softcap
    scores = logits(x, pack(weight), softcap, 1000)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-4)


@needs_native
def test_infinities_and_nan_of_float16_weights_stay(isa: str) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16)[:, None]
    scores = logits(torch.ones(1, 1, dtype=torch.float16), pack(every), None, 1 << 16)[0]
    torch.testing.assert_close(scores, every[:, 0].float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_the_references_take_packed_and_plain_weights(dtype: torch.dtype, tokens: int) -> None:
    x, weight = normal(tokens, 101, dtype=dtype), normal(100, 101, dtype=dtype, seed=1)
    bias, residual = normal(100, seed=2), normal(tokens, 100, dtype=dtype, seed=3)
    product = x.double() @ weight.double().T
    eps = torch.finfo(dtype).eps
    for stored in (weight, pack(weight)):
        summed = OPS["linear"].reference(x, stored, bias.to(dtype).float(), residual, 100)
        expected = product + bias.to(dtype).double() + residual.double()
        torch.testing.assert_close(summed.double(), expected, rtol=eps, atol=20 * eps + 1e-4)
        scores = OPS["logits"].reference(x, stored, 3.0, 100)
        torch.testing.assert_close(scores.double(), torch.tanh(product / 3) * 3, rtol=1e-5, atol=1e-4)
        rows = OPS["embedding"].reference(torch.tensor([99, 0]), stored, 0.5, 101)
        assert torch.equal(rows, weight[[99, 0]] * 0.5)


@pytest.mark.parametrize("rows", [5, 4000])
def test_the_reference_of_logits_does_not_round_to_the_weights_type(rows: int) -> None:
    x, weight = normal(2, 576, dtype=torch.bfloat16), normal(rows, 576, dtype=torch.bfloat16, seed=1)
    scores = OPS["logits"].reference(x, weight, None, rows)
    torch.testing.assert_close(scores.double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-4)


@needs_native
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("cols", [1, 64, 101])
@pytest.mark.parametrize("scale", [1.0, 8.0, 0.3])
def test_embedding_gathers_rows_of_packed_and_plain_tables(
    isa: str, dtype: torch.dtype, ids: torch.dtype, cols: int, scale: float
) -> None:
    table = normal(100, cols, dtype=dtype)
    for tokens in ([], [3], [99, 0, 3, 3, 48]):
        token_ids = torch.tensor(tokens, dtype=ids)
        for stored in (table, pack(table)):
            assert torch.equal(embedding(token_ids, stored, scale, cols), table[tokens] * scale)


@needs_native
def test_an_id_that_no_table_has_reads_no_memory(isa: str) -> None:
    rows = embedding(torch.tensor([-1, 1 << 60, 4]), torch.ones(5, 8), 1.0, 8)
    assert rows[:2].isnan().all() and (rows[2] == 1).all()


def test_a_step_of_every_type_is_what_the_kernels_take() -> None:
    assert [step_columns(dtype) * dtype.itemsize for dtype in TYPES] == [4, 4, 2]
