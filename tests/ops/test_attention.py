"""Paged attention against a loop over tokens and heads that looks like the definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ozone.ops.attention import attention
from ozone.ops.kv_cache import kv_write

BLOCK_SIZE = 16


@dataclass
class Batch:
    """Requests as (positions in all, new ones among them), their caches filled at scattered blocks."""

    requests: list[tuple[int, int]]
    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    block_tables: Tensor

    @property
    def query_start_loc(self) -> Tensor:
        counts = torch.tensor([0] + [new for _, new in self.requests])
        return counts.cumsum(0).to(torch.int32)

    @property
    def seq_lens(self) -> Tensor:
        return torch.tensor([length for length, _ in self.requests], dtype=torch.int32)

    def attend(self, scale: float, window: int | None, softcap: float | None) -> Tensor:
        token = torch.empty(0)
        tables = (self.block_tables, self.query_start_loc, self.seq_lens)
        return attention(self.q, self.k_cache, self.v_cache, token, *tables, scale, window, softcap)


def make_batch(
    requests: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    blocks = [-(-length // BLOCK_SIZE) for length, _ in requests]
    num_blocks = sum(blocks) + 3
    # What nobody wrote is NaN, so that looking at it shows.
    k_cache = torch.full((kv_heads, num_blocks, BLOCK_SIZE, head_dim), math.nan, dtype=dtype)
    v_cache = k_cache.clone()
    ids = torch.randperm(num_blocks, generator=generator)
    block_tables = torch.full((len(requests), max(blocks) + 2), int(ids[-1]), dtype=torch.int32)
    keys, values = [], []
    for row, (length, _) in enumerate(requests):
        own, ids = ids[: blocks[row]], ids[blocks[row] :]
        block_tables[row, : len(own)] = own
        k, v = normal(length, kv_heads, head_dim), normal(length, kv_heads, head_dim)
        slots = own[torch.arange(length) // BLOCK_SIZE] * BLOCK_SIZE + torch.arange(length) % BLOCK_SIZE
        # A slot behind a request's end in its last block was written before, or is still zero.
        k_cache[:, own], v_cache[:, own] = 0.0, 0.0
        kv_write(k, v, k_cache, v_cache, slots)
        keys.append(k)
        values.append(v)
    q = normal(sum(new for _, new in requests), heads, head_dim)
    return Batch(requests, q, k_cache, v_cache, keys, values, block_tables)


def naive(batch: Batch, scale: float, window: int | None, softcap: float | None) -> Tensor:
    rows = []
    row = 0
    group = batch.q.shape[1] // batch.k_cache.shape[0]
    for (length, new), k, v in zip(batch.requests, batch.keys, batch.values, strict=True):
        for position in range(length - new, length):
            first = 0 if window is None else max(0, position - window + 1)
            heads = []
            for head, query in enumerate(batch.q[row].double()):
                scores = k[first : position + 1, head // group].double() @ query * scale
                if softcap is not None:
                    scores = torch.tanh(scores / softcap) * softcap
                heads.append(scores.softmax(0) @ v[first : position + 1, head // group].double())
            rows.append(torch.stack(heads))
            row += 1
    return torch.stack(rows)


BATCHES = {
    "one token": [(1, 1)],
    "decode of one": [(45, 1)],
    "decode of a few": [(45, 1), (33, 1), (48, 1)],
    "decode of unlike lengths": [(3, 1), (150, 1), (17, 1), (160, 1), (1, 1)],
    "prefill": [(50, 50)],
    "prefill longer than a tile": [(300, 300)],
    "chunk after a prefix": [(70, 22)],
    "chunk longer than a tile": [(420, 290)],
    "mixed": [(20, 20), (61, 1), (40, 13), (5, 1), (130, 1)],
}


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 20, 100])
@pytest.mark.parametrize("name", BATCHES)
def test_attention_equals_its_definition(name: str, window: int | None, softcap: float | None) -> None:
    batch = make_batch(BATCHES[name])
    expected = naive(batch, 0.3, window, softcap)
    torch.testing.assert_close(batch.attend(0.3, window, softcap).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_attention_equals_its_definition_on_random_shapes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    requests = []
    for _ in range(draw(1, 6)):
        length = draw(1, 90)
        requests.append((length, 1 if draw(0, 1) else draw(1, length)))
    kv_heads = draw(1, 3)
    batch = make_batch(
        requests, heads=kv_heads * draw(1, 4), kv_heads=kv_heads, head_dim=8 * draw(1, 5), seed=seed
    )
    window = draw(1, 60) if draw(0, 1) else None
    expected = naive(batch, 0.2, window, None)
    torch.testing.assert_close(batch.attend(0.2, window, None).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_half_precision_rounds_inputs_and_output_only(
    dtype: torch.dtype, tolerance: float, softcap: float | None
) -> None:
    batch = make_batch(BATCHES["mixed"], dtype=dtype)
    output = batch.attend(0.3, None, softcap)
    assert output.dtype == dtype
    expected = naive(batch, 0.3, None, softcap)
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_nan_of_one_request_does_not_reach_another() -> None:
    batch = make_batch(BATCHES["decode of unlike lengths"])
    expected = naive(batch, 0.3, None, None)
    batch.k_cache[:, batch.block_tables[1, :10]] = math.nan
    batch.v_cache[:, batch.block_tables[1, :10]] = math.nan
    output = batch.attend(0.3, None, None).double()
    assert output[1].isnan().all()
    others = [0, 2, 3, 4]
    torch.testing.assert_close(output[others], expected[others], rtol=1e-5, atol=1e-5)


def _write_then_attend(q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    slots = torch.tensor([16, 17, 18])
    token = kv_write(k, v, k_cache, v_cache, slots)
    tables = (torch.tensor([[1]]), torch.tensor([0, 3]), torch.tensor([3]))
    return attention(q, k_cache, v_cache, token, *tables, 0.25, None, None)


def test_a_graph_cannot_lose_the_write_or_move_it_behind_the_read() -> None:
    cache = torch.zeros(2, 4, BLOCK_SIZE, 16)
    q, k, v = torch.randn(3, 4, 16), torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    traced = make_fx(_write_then_attend, tracing_mode="fake")(q, k, v, cache, cache.clone())
    traced.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    nodes = {node.target: node for node in traced.graph.nodes if node.op == "call_function"}
    write, read = (nodes[torch.ops.ozone.kv_write.default], nodes[torch.ops.ozone.attention.default])
    assert write in read.all_input_nodes
    traced.recompile()
    caches = cache.clone(), cache.clone()
    assert torch.equal(traced(q, k, v, *caches), _write_then_attend(q, k, v, cache.clone(), cache.clone()))
    assert torch.equal(caches[0][:, 1, :3], k.transpose(0, 1))
    assert torch.equal(caches[1][:, 1, :3], v.transpose(0, 1))
