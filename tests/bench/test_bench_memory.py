"""`ozone bench memory`: what a served model takes, told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ozone.bench.memory import Memory, main
from ozone.bench.resident import resident_bytes

pytestmark = pytest.mark.skipif(not resident_bytes(), reason="needs /proc")


def test_the_rest_is_what_neither_weights_nor_used_cache_are() -> None:
    memory = Memory(weights=100, kv_cache=50, kv_token=2, ready={"peak": 150}, end={"peak": 400})
    assert memory.kv_used(10) == 20
    assert memory.kv_used(1000) == 50
    assert memory.rest(10) == 280


def test_a_report_tells_weights_cache_and_rest_apart(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--num-prompts", "2", "--input-len", "16", "--output-len", "4", "--dtype", "float32"]
    limits = ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000", "-O0", "--json"]
    assert main([str(tiny_model), *sizes, *limits]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["completed"] == 2
    # 2 layers of keys and values for 2 heads of 8 float32 numbers each, which are stored 16 wide.
    assert results["kv_cache_used_bytes"] == results["tokens"] * 2 * 2 * 2 * 16 * 4
    assert 0 < results["weight_bytes"] < 1e6
    assert results["end_bytes"]["peak"] >= results["ready_bytes"]["peak"]
    parts = results["weight_bytes"] + results["kv_cache_used_bytes"] + results["rest_bytes"]
    assert parts == results["end_bytes"]["peak"]
