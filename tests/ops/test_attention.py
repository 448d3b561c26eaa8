"""Paged attention against its definition in double precision: the reference, and every instruction set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from attention_batches import Batch, make_batch, naive, slots_of
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ozone.native import library
from ozone.ops.attention import attention
from ozone.ops.kv_cache import CacheLayout, kv_write
from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise

NATIVE = library()
CACHE_DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn]

BATCHES = {
    "one token": [(1, 1)],
    "decode of one": [(45, 1)],
    "decode of a few": [(45, 1), (33, 1), (48, 1)],
    "decode of unlike lengths": [(3, 1), (150, 1), (17, 1), (160, 1), (1, 1)],
    "decode in chunks": [(257, 1), (700, 1), (256, 1)],
    "prefill": [(50, 50)],
    "prefill longer than a tile": [(300, 300)],
    "chunk after a prefix": [(70, 22)],
    "chunk longer than a tile": [(420, 290)],
    "mixed": [(20, 20), (61, 1), (40, 13), (5, 1), (330, 1)],
}


@pytest.fixture(params=["reference", *(NATIVE.isas() if NATIVE else [])])
def op(request: pytest.FixtureRequest) -> Iterator[Callable[..., Tensor]]:
    """The op as its reference and with each instruction set."""
    if request.param == "reference":
        yield OPS["attention"].reference
        return
    assert NATIVE is not None
    before = NATIVE.isa()
    NATIVE.set_isa(request.param)
    yield attention
    NATIVE.set_isa(before)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 20, 100])
@pytest.mark.parametrize("name", BATCHES)
def test_attention_equals_its_definition(
    op: Callable[..., Tensor], name: str, window: int | None, softcap: float | None
) -> None:
    batch = make_batch(BATCHES[name])
    assert_close(batch.attend(0.3, window, softcap, op), naive(batch, 0.3, window, softcap), 1e-5)


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256, 20])
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_every_head_size_group_and_type_of_cache(
    op: Callable[..., Tensor], group: int, head_dim: int, cache_dtype: torch.dtype
) -> None:
    dtype = cache_dtype if cache_dtype.itemsize > 1 else torch.bfloat16
    batch = make_batch(
        BATCHES["mixed"],
        heads=2 * group,
        kv_heads=2,
        head_dim=head_dim,
        dtype=dtype,
        cache_dtype=cache_dtype,
    )
    # Inputs, the output and, in bfloat16, probabilities are rounded; sums and the softmax are not. With an
    # int8 cache only the rounding of the output counts.
    rounded = 1 if cache_dtype == torch.int8 else 3
    tolerance = 1e-5 if dtype == torch.float32 else rounded * torch.finfo(dtype).eps
    scale = head_dim**-0.5
    assert_close(batch.attend(scale, op=op), naive(batch, scale), tolerance)


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activations_and_cache_may_have_different_types(
    op: Callable[..., Tensor], dtype: torch.dtype, cache_dtype: torch.dtype
) -> None:
    batch = make_batch(BATCHES["mixed"], head_dim=64, dtype=dtype, cache_dtype=cache_dtype)
    output = batch.attend(0.125, 100, 3.0, op)
    assert output.dtype == dtype
    assert_close(output, naive(batch, 0.125, 100, 3.0), 0.025)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_an_int8_cache_loses_nothing_but_what_its_codes_do(
    op: Callable[..., Tensor], group: int, window: int | None, softcap: float | None
) -> None:
    requests = [(20, 20), (600, 1), (40, 13), (5, 1), (330, 1), (420, 29)]
    batch = make_batch(requests, heads=2 * group, head_dim=64, cache_dtype=torch.int8)
    assert_close(batch.attend(0.125, window, softcap, op), naive(batch, 0.125, window, softcap), 1e-4)


def test_probabilities_and_scales_of_values_may_differ_widely(op: Callable[..., Tensor]) -> None:
    """As with a first token that all attend to and whose values are next to nothing."""
    batch = make_batch([(300, 1)], head_dim=64, cache_dtype=torch.int8)
    assert batch.cache.scales is not None
    batch.cache.scales[batch.block_tables[0, 0], :, 0, 1, 0] *= 1e-4
    batch.values[0][0] *= 1e-4
    batch.q = batch.keys[0][:1].repeat_interleave(2, 1).float()
    expected = naive(batch, 0.2)
    assert expected.abs().max() < 0.01  # nearly all goes to the first
    torch.testing.assert_close(batch.attend(0.2, op=op).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("head_dim", [64, 512, 1024])
def test_sums_of_the_largest_codes_do_not_overflow(
    op: Callable[..., Tensor], head_dim: int, sign: int
) -> None:
    batch = make_batch([(70, 1), (200, 33)], head_dim=head_dim, cache_dtype=torch.int8)
    assert batch.cache.scales is not None
    batch.cache.scales[:, :, :, 0] = 1 / 127
    batch.cache.keys[:] = 127
    batch.cache.keys[..., ::2, :] = -127
    for keys in batch.keys:
        keys[:] = 1
        keys[::2] = -1
    batch.q[:] = sign
    assert_close(batch.attend(1 / head_dim, op=op), naive(batch, 1 / head_dim), 1e-4)


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
def test_a_query_of_zeros_takes_the_mean(op: Callable[..., Tensor], cache_dtype: torch.dtype) -> None:
    batch = make_batch(BATCHES["mixed"], cache_dtype=cache_dtype)
    batch.q[:, 1] = 0
    output = batch.attend(0.3, op=op)
    assert_close(output, naive(batch, 0.3), 1e-2)
    assert_close(output[20, 1], batch.values[1][:, 0].mean(0), 1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_attention_equals_its_definition_on_random_shapes(op: Callable[..., Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    requests = []
    for _ in range(draw(1, 6)):
        length = draw(1, 90) if draw(0, 3) else draw(1, 900)
        requests.append((length, 1 if draw(0, 1) else draw(1, min(length, 100))))
    kv_heads = draw(1, 3)
    batch = make_batch(
        requests,
        heads=kv_heads * draw(1, 9),
        kv_heads=kv_heads,
        head_dim=draw(1, 80),
        block_size=16 * draw(1, 5),
        seed=seed,
    )
    window = draw(1, 60) if draw(0, 1) else None
    assert_close(batch.attend(0.2, window, op=op), naive(batch, 0.2, window), 1e-5)


def test_an_empty_batch_has_no_results(op: Callable[..., Tensor]) -> None:
    batch = make_batch([(5, 1)])
    batch.q, batch.block_tables = batch.q[:0], batch.block_tables[:0]
    batch.requests = []
    assert batch.attend(0.3, op=op).shape == (0, 4, 16)


def test_queries_may_be_views_of_wider_rows(isa: str) -> None:
    batch = make_batch(BATCHES["mixed"])
    expected = batch.attend(0.3)
    wide = torch.randn(batch.q.shape[0], 9, 16)
    wide[:, 2:6] = batch.q
    batch.q = wide[:, 2:6]
    assert torch.equal(batch.attend(0.3), expected)


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
def test_nan_of_one_request_does_not_reach_another(
    op: Callable[..., Tensor], cache_dtype: torch.dtype
) -> None:
    batch = make_batch(BATCHES["decode of unlike lengths"], cache_dtype=cache_dtype)
    expected = batch.attend(0.3, op=op)
    batch.poison(batch.block_tables[1, :10])
    output = batch.attend(0.3, op=op)
    assert output[1].isnan().all()
    others = [0, 2, 3, 4]
    assert torch.equal(output[others], expected[others])


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("name", ["decode of unlike lengths", "mixed"])
def test_what_lies_behind_the_last_position_does_not_matter(
    isa: str, name: str, cache_dtype: torch.dtype
) -> None:
    """`make_batch` leaves NaN there, as an earlier request with a broken weight might have."""
    batch = make_batch(BATCHES[name], cache_dtype=cache_dtype, head_dim=32)
    assert batch.attend(0.3).isfinite().all()


def _rows_of(batch: Batch, request: int) -> slice:
    starts = batch.query_start_loc.tolist()
    return slice(starts[request], starts[request + 1])


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("window", [None, 60])
def test_a_request_gets_the_same_alone_in_a_batch_and_with_any_number_of_threads(
    isa: str, set_num_threads: Callable[[int], None], cache_dtype: torch.dtype, window: int | None
) -> None:
    requests = [(20, 20), (61, 1), (400, 130), (5, 1), (1030, 1), (300, 1)]
    batch = make_batch(requests, heads=6, head_dim=64, dtype=torch.bfloat16, cache_dtype=cache_dtype)
    set_num_threads(1)
    expected = batch.attend(0.125, window)
    for count in (2, 3, 5):
        set_num_threads(count)
        assert torch.equal(batch.attend(0.125, window), expected)
    for i in range(len(requests)):
        rows = _rows_of(batch, i)
        alone = Batch(
            [requests[i]], batch.q[rows], batch.cache, batch.scales, [], [], batch.block_tables[i : i + 1]
        )
        assert torch.equal(alone.attend(0.125, window), expected[rows])


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("window", [None, 90])
def test_a_prompt_gets_the_same_whole_and_in_chunks(
    isa: str, cache_dtype: torch.dtype, window: int | None
) -> None:
    batch = make_batch([(500, 500)], heads=6, head_dim=64, dtype=torch.bfloat16, cache_dtype=cache_dtype)
    whole = batch.attend(0.125, window)
    q = batch.q
    for first, last in ((0, 2), (2, 130), (130, 477), (477, 500)):
        batch.requests, batch.q = [(last, last - first)], q[first:last]
        assert torch.equal(batch.attend(0.125, window), whole[first:last])


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_a_token_gets_the_same_alone_and_among_tokens_of_its_request(
    isa: str, group: int, cache_dtype: torch.dtype
) -> None:
    """As long as its context is one chunk: more of them are joined in another order."""
    batch = make_batch(
        [(256, 12)],
        heads=2 * group,
        head_dim=64,
        dtype=torch.bfloat16,
        cache_dtype=cache_dtype,
    )
    among = batch.attend(0.125)
    q = batch.q
    for place in range(12):
        batch.requests, batch.q = [(245 + place, 1)], q[place : place + 1]
        assert torch.equal(batch.attend(0.125)[0], among[place])


def test_equal_heads_of_a_group_have_equal_results(isa: str) -> None:
    batch = make_batch(BATCHES["mixed"], heads=14, kv_heads=2, head_dim=64, dtype=torch.bfloat16)
    batch.q = batch.q[:, :1].repeat(1, 14, 1)
    output = batch.attend(0.125).unflatten(1, (2, 7))
    assert torch.equal(output, output[:, :, :1].expand(output.shape))


def test_large_scores_do_not_overflow(op: Callable[..., Tensor]) -> None:
    batch = make_batch(BATCHES["mixed"], head_dim=64)
    batch.q *= 1000
    assert_close(batch.attend(1.0, op=op), naive(batch, 1.0), 1e-3)


def _write_then_attend(q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    slots = slots_of(torch.tensor([1]), torch.arange(3), 16)
    token = kv_write(k, v, k_cache, v_cache, None, slots)
    tables = (torch.tensor([[1]]), torch.tensor([0, 3]), torch.tensor([3]))
    return attention(q, k_cache, v_cache, None, token, *tables, 0.25, None, None)


def test_a_graph_cannot_lose_the_write_or_move_it_behind_the_read() -> None:
    layout = CacheLayout(4, 16, 2, 16, torch.float32)
    caches, others = layout.allocate("test")[:2], layout.allocate("test")[:2]
    q, k, v = torch.randn(3, 4, 16), torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    traced = make_fx(_write_then_attend, tracing_mode="fake")(q, k, v, *caches)
    traced.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    nodes = {node.target: node for node in traced.graph.nodes if node.op == "call_function"}
    write, read = (nodes[torch.ops.ozone.kv_write.default], nodes[torch.ops.ozone.attention.default])
    assert write in read.all_input_nodes
    traced.recompile()
    assert torch.equal(traced(q, k, v, *caches), _write_then_attend(q, k, v, *others))
    assert torch.equal(caches[0], others[0])
    assert torch.equal(caches[1], others[1])
    assert caches[0].count_nonzero() == k.numel()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
def test_scores_that_are_not_finite_are_not_hidden(
    op: Callable[..., Tensor], cache_dtype: torch.dtype, number: float
) -> None:
    batch = make_batch(BATCHES["mixed"], cache_dtype=cache_dtype)
    batch.q[25, 2, 3] = number
    broken = batch.attend(0.3, op=op).isnan()
    assert broken.any(2).nonzero().tolist() == [[25, 2]]
    assert broken[25, 2].all()
