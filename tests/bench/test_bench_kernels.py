"""`ozone bench kernels`: what is measured, paired with which limit, and reported. Not how fast it is."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from ozone.bench.kernels import main
from ozone.bench.kernels.cases import Work, copies_for, selected
from ozone.bench.kernels.launches import Launches
from ozone.bench.kernels.report import figures, peers
from ozone.bench.kernels.rounds import Plan, Rounds, measure
from ozone.bench.limits import PRODUCTS, Limits, beyond_cache_bytes
from ozone.errors import ConfigError
from ozone.native import library

pytestmark = pytest.mark.skipif(library() is None, reason="needs the native library")


@pytest.fixture(scope="module")
def limits() -> Iterator[Limits]:
    native = library()
    assert native is not None
    before = native.num_threads()
    yield Limits(1)
    native.set_num_threads(before)


def test_names_of_cases_differ_and_are_what_filters_look_into() -> None:
    names = [case.name for case in selected([])]
    assert len(set(names)) == len(names)
    filtered = [case.name for case in selected(["linear int8 1 x", "overhead"])]
    assert filtered == [name for name in names if "linear int8 1 x" in name or "overhead" in name]
    assert filtered


def test_copies_together_exceed_the_cache() -> None:
    assert copies_for(1000) * 1000 >= beyond_cache_bytes()
    assert copies_for(1 << 40) == 2


def test_weights_come_from_memory() -> None:
    (case,) = selected(["linear Q4_1 1 x SmolLM2 layer, merged"])
    work = case.prepare()
    assert work.bytes * len(work.calls) >= beyond_cache_bytes()
    assert work.operations == 2 * (960 * 576 + 576 * 576 + 3072 * 576 + 576 * 1536)


def test_recorded_launches_are_made_again() -> None:
    case = selected(["rms_norm bf16 32 x"])[0]
    (call,) = case.prepare().calls
    results: list[torch.Tensor] = []
    launches = Launches([lambda: results.append(call())])
    expected = results[0].clone()
    results[0].zero_()
    launches.run()
    assert len(launches) == 1
    assert torch.equal(results[0], expected)


def test_a_recording_ends_where_a_call_fails() -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        Launches([fail])
    (case,) = selected(["rms_norm bf16 1 x"])[:1]
    assert len(Launches(case.prepare().calls)) == 1


def test_calls_take_turns_and_go_on_where_they_stopped(limits: Limits) -> None:
    turns: list[int] = []
    work = Work([lambda i=i: turns.append(i) for i in range(3)], bytes=1000, operations=10)
    rounds = measure(work, limits, Plan(2, 0.0))
    assert [turn % 3 for turn in range(len(turns))] == turns
    assert len(rounds.call) == len(rounds.limit) == len(rounds.shares) == 2
    assert not rounds.kernel
    assert rounds.ours is rounds.call


def test_a_limit_is_the_longer_of_reading_and_computing(limits: Limits) -> None:
    reading = measure(Work([int], bytes=1 << 30, operations=1), limits, Plan(1, 0.0))
    assert reading.bound == "read"
    computing = measure(Work([int], bytes=1, operations=1 << 40, product="int8"), limits, Plan(1, 0.0))
    assert computing.bound == "int8"
    assert not measure(Work([int]), limits, Plan(1, 0.0)).limit


def test_shares_are_taken_round_by_round() -> None:
    rounds = Rounds(
        Work([int], bytes=10**9), kernel=[2.0, 4.0], limit=[1.0, 3.0], call=[5.0, 5.0], bound="read"
    )
    assert rounds.shares == [0.5, 0.75]
    assert figures(rounds) == ("3.00 s", "0.3 GB/s", "0.5 GB/s read", "62%", "53%!", "5.00 s")


def test_peers_are_compared_with_the_call() -> None:
    rounds = Rounds(Work([int]), kernel=[1e-6], call=[2e-6], peers={"ATen": [3e-6]})
    assert peers(rounds) == "ATen 3.00 us (1.50x)"


def test_json_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--rounds", "1", "--threads", "1", "--filter", "overhead", "--json"]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert report["bench"] == "kernels"
    assert {result["op"] for result in report["results"]} == {"overhead"}
    assert all(result["kernel_seconds"]["count"] == 1 for result in report["results"])
    assert set(report["machine"]["giga_per_s"]) == {"read", *PRODUCTS}
    assert "op call" in streams.err


def test_an_instruction_set_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    native = library()
    assert native is not None
    before = native.isa()
    try:
        main(["--isa", "portable", "--rounds", "1", "--quick", "--threads", "1", "--filter", "launch on"])
    finally:
        native.set_isa(before)
    assert "portable, 1 threads" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--isa sse9: this machine and build have portable"):
        main(["--isa", "sse9"])


def test_a_filter_without_cases_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--filter nothing: no case has that"):
        main(["--filter", "nothing"])
    assert main(["--list", "--filter", "overhead"]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_launches_that_cannot_be_made_again_are_not(limits: Limits) -> None:
    (call,) = selected(["rms_norm bf16 32 x"])[0].prepare().calls
    assert measure(Work([call]), limits, Plan(1, 0.0)).kernel
    assert not measure(Work([call], repeatable=False), limits, Plan(1, 0.0)).kernel


def test_a_measured_case_gives_its_memory_back() -> None:
    tensors = [torch.zeros(1)]
    gone = weakref.ref(tensors[0])
    work = Work([partial(torch.add, tensors[0], 1)], peers={"ATen": [partial(torch.sub, tensors[0], 1)]})
    rounds = measure(work, Limits(1), Plan(1, 0.0))
    assert rounds.copies == 1 and rounds.call
    del work
    tensors.clear()
    assert gone() is None
