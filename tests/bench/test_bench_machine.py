"""The machine's limits: what is measured, and how it is reported. How fast is nobody's promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ozone.bench.limits import PRODUCTS, Limits, last_level_cache_bytes
from ozone.bench.machine import (
    ReadMeter,
    main,
    measure_limit,
    measure_peak,
    measure_read_bandwidth,
)
from ozone.native import library


def _cache(root: Path, index: int, size: str) -> None:
    folder = root / f"sys/devices/system/cpu/cpu0/cache/index{index}"
    folder.mkdir(parents=True)
    (folder / "size").write_text(size + "\n")


def test_the_largest_cache_is_the_last(tmp_path: Path) -> None:
    assert last_level_cache_bytes(tmp_path) is None
    _cache(tmp_path, 0, "32K")
    _cache(tmp_path, 2, "1024K")
    _cache(tmp_path, 3, "32M")
    assert last_level_cache_bytes(tmp_path) == 32 << 20


@pytest.mark.parametrize("native", [True, False])
def test_a_read_covers_a_buffer_that_no_cache_holds(native: bool) -> None:
    if native and library() is None:
        pytest.skip("needs the native library")
    meter = ReadMeter(threads=1, native=native)
    bandwidth = meter.measure(seconds=0.0)
    meter.close()
    assert bandwidth.passes.count == 3
    assert bandwidth.passes.minimum > 0
    assert bandwidth.buffer_bytes >= 4 * (last_level_cache_bytes() or 0)
    assert bandwidth.buffer_bytes >= 128 << 20


def test_every_byte_of_the_buffer_is_read_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    meter = ReadMeter(threads=3, native=False)

    class Recorder:
        @staticmethod
        def reduce(part: np.ndarray) -> int:
            read.append(part.nbytes)
            return 0

    monkeypatch.setattr(np, "bitwise_or", Recorder)
    meter.measure(seconds=0.0)
    meter.close()
    assert sum(read) == 3 * meter.buffer_bytes
    assert len(read) == 9


@pytest.mark.parametrize("kind", ["bf16", "fp32", "int8"])
def test_a_peak_says_what_was_multiplied(kind: str) -> None:
    peak = measure_peak(kind, seconds=0.01)
    assert peak.rates.minimum > 0
    assert peak.size >= 256
    report = peak.as_json()
    assert report["method"] == "torch product"
    assert report["unit"] == ("GOP/s" if kind == "int8" else "GFLOP/s")


@pytest.mark.skipif(library() is None, reason="needs the native library")
@pytest.mark.parametrize("kind", PRODUCTS)
def test_every_kind_of_product_has_a_limit(kind: str) -> None:
    peak = measure_limit(Limits(1), kind, seconds=0.01)
    assert peak.rates.minimum > 0
    assert peak.as_json()["size"] is None


def test_the_bandwidth_is_there_for_other_benchmarks() -> None:
    report = measure_read_bandwidth(threads=1, seconds=0.0).as_json()
    assert set(report) == {"median", "max", "passes", "buffer_bytes", "threads", "method"}
    assert report["threads"] == 1


def test_json_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--num-threads", "1"]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert report["bench"] == "machine"
    assert set(report["peaks"]) == {"bf16", "int8", "fp32"}
    assert set(report["limits"]) == (set() if library() is None else set(PRODUCTS))
    assert {peak["method"] for peak in report["peaks"].values()} == {"torch product"}
    assert report["read_bandwidth_gb_per_s"]["max"] >= report["read_bandwidth_gb_per_s"]["median"] > 0
    assert "memory read" in streams.err


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_wrong_number_of_threads_is_one_line(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([f"--num-threads={number}"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "--num-threads" in error
    assert error.count("\n") == 1
