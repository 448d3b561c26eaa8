"""Attention that quantizes its result gives the bits of its parts, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_batches import Batch, make_batch
from torch import Tensor

from ozone.ops.registry import OPS
from ozone.ops.schemas import FUSED, QUANTIZATIONS

pytestmark = pytest.mark.pairwise

NAMES = [name for name, parts in FUSED.items() if parts[0] == "attention"]
GROUPS = {"quantize_fp8_group": (16, 64), "quantize_int8_group": (32, 64)}

BATCHES = {
    "one token": [(1, 1)],
    "whole contexts": [(45, 1), (33, 1), (256, 1)],
    "one in chunks": [(1000, 1)],
    "some in chunks": [(257, 1), (40, 1), (2400, 1), (256, 1)],
    "prefill": [(50, 50)],
    "chunk after a prefix": [(420, 290)],
    "mixed": [(20, 20), (600, 1), (340, 13), (5, 1), (330, 1)],
}


def own_arguments(quantization: str, group: int) -> tuple[Any, ...]:
    if quantization.endswith("static"):
        return (torch.tensor([0.013]),)
    return (group,) if quantization.endswith("group") else ()


def results_of(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


def assert_same_bits(actual: Any, expected: Any) -> None:
    for a, e in zip(results_of(actual), results_of(expected), strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape and a.is_contiguous()
        assert torch.equal(a.view(torch.uint8), e.view(torch.uint8))


def check(
    batch: Batch,
    name: str,
    kind: Callable[[str], Callable[..., Any]],
    group: int = 32,
    window: int | None = None,
    softcap: float | None = None,
) -> None:
    quantization = FUSED[name][1]
    own = own_arguments(quantization, group)
    arguments = (*batch.arguments(), 0.3, window, softcap)
    attended = kind("attention")(*arguments)
    assert_same_bits(kind(name)(*arguments, *own), kind(quantization)(attended, *own))


def test_there_is_one_for_every_quantization() -> None:
    assert tuple(FUSED[name][1] for name in NAMES) == QUANTIZATIONS


@pytest.mark.parametrize("window", [None, 20, 300])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_its_parts(isa: str, name: str, batch: str, window: int | None) -> None:
    made = make_batch(BATCHES[batch], heads=6, head_dim=64, dtype=torch.bfloat16)
    for kind in (lambda op: OPS[op].call), (lambda op: OPS[op].reference):
        for group in GROUPS.get(FUSED[name][1], (0,)):
            check(made, name, kind, group, window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_its_parts_on_random_shapes(isa: str, name: str, dtype: torch.dtype) -> None:
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)

        def draw(low: int, high: int, generator: torch.Generator = generator) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        requests = []
        for _ in range(draw(1, 6)):
            length = draw(1, 300) if draw(0, 1) else draw(300, 1500)
            requests.append((length, 1 if draw(0, 2) else draw(1, min(length, 60))))
        # Heads that are no whole groups, and groups that are no whole heads.
        kv_heads, head_dim = draw(1, 2), 8 * draw(1, 12)
        heads = kv_heads * draw(1, 6) * (4 if head_dim % 32 else 1)
        batch = make_batch(
            requests, heads=heads, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, seed=seed
        )
        softcap = 3.0 if draw(0, 2) == 0 else None
        group = 32 if draw(0, 1) else next(g for g in (96, 64, 32) if heads * head_dim % g == 0)
        check(batch, name, lambda op: OPS[op].call, group, draw(1, 400) if draw(0, 1) else None, softcap)


@pytest.mark.parametrize("cache_dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", NAMES)
def test_the_cache_may_have_8_bits(isa: str, name: str, cache_dtype: torch.dtype) -> None:
    batch = make_batch(BATCHES["mixed"], heads=6, head_dim=64, dtype=torch.bfloat16, cache_dtype=cache_dtype)
    check(batch, name, lambda op: OPS[op].call)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same(
    isa: str, set_num_threads: Callable[[int], None], name: str
) -> None:
    own = own_arguments(FUSED[name][1], 96)  # no whole head
    for requests in ([(1000, 1)], BATCHES["mixed"]):
        batch = make_batch(requests, heads=9, kv_heads=3, head_dim=64, dtype=torch.bfloat16)
        arguments = (*batch.arguments(), 0.125, None, None, *own)
        set_num_threads(1)
        expected = OPS[name].call(*arguments)
        for count in (2, 3, 5):
            set_num_threads(count)
            assert_same_bits(OPS[name].call(*arguments), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_stays_in_its_request(isa: str, name: str) -> None:
    batch = make_batch(BATCHES["some in chunks"], heads=6, head_dim=64, dtype=torch.bfloat16)
    batch.poison(batch.block_tables[2, :150])
    check(batch, name, lambda op: OPS[op].call)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_has_no_results(isa: str, name: str) -> None:
    batch = make_batch([(5, 1)], head_dim=16)
    batch.q, batch.block_tables, batch.requests = batch.q[:0], batch.block_tables[:0], []
    check(batch, name, lambda op: OPS[op].call)
