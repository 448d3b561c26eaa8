"""Tuning: what is chosen from times, what is kept of it, and that a start with it says the same."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone import LLM, SamplingParams
from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.tuning import keeping, measuring, tuner
from ozone.compilation.tuning.choosing import (
    DEFAULT,
    Figure,
    Span,
    differing,
    figure,
    most_saved,
    spans,
    way_for,
)
from ozone.compilation.tuning.keeping import Kept, ShapeChoice
from ozone.compilation.tuning.measuring import Measured
from ozone.graphs import eager_runner
from ozone.native import library
from ozone.ops.registry import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="ways are those of the native library")

WAYS = ("default", "far", "near")


# ---- choosing ----


def test_a_way_is_chosen_where_it_is_faster_in_most_rounds() -> None:
    base = [1.0, 1.1, 0.9, 1.0]
    assert figure(1, {DEFAULT: base, "near": [0.9, 1.0, 0.8, 0.9]}).way == "near"
    assert figure(1, {DEFAULT: base, "near": [0.98, 1.08, 0.88, 0.99]}).way == DEFAULT, "too little"
    assert figure(1, {DEFAULT: base, "near": [0.5, 0.5, 0.95, 1.1]}).way == DEFAULT, "too seldom"
    assert figure(1, {DEFAULT: base[:3], "near": [0.1, 0.1, 0.1]}).way == DEFAULT, "too few rounds"
    ways = {DEFAULT: base, "near": [0.9] * 4, "far": [0.7] * 4}
    assert figure(1, ways).way == "far"


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from(WAYS)), min_size=1, unique_by=lambda pair: pair[0]
    ),
    st.booleans(),
)
def test_spans_cover_all_counts_and_say_what_was_measured(
    made: list[tuple[int, str]], complete: bool
) -> None:
    figures = [Figure(rows, {}, way) for rows, way in sorted(made)]
    found = spans(figures, complete=complete)
    assert found[-1].last is None
    ends = [span.last for span in found[:-1]]
    assert all(end is not None for end in ends) and ends == sorted(set(ends), key=lambda end: end or 0)
    assert all(a.way != b.way for a, b in itertools.pairwise(found)), "neighbours are one"
    measured = {one.rows: one.way for one in figures}
    last = max(measured)
    for rows in range(1, 60):
        below = max((count for count in measured if count <= rows), default=0)
        above = min((count for count in measured if count >= rows), default=0)
        way = way_for(found, rows)
        if rows in measured:
            assert way == measured[rows]
        elif rows > last:
            assert way == (measured[last] if complete else DEFAULT)
        elif measured.get(below, DEFAULT) == measured[above]:
            assert way == measured[above]
        else:
            assert way == DEFAULT


def test_choices_are_shown_by_count() -> None:
    assert differing([Span(3, "near"), Span(4, "default"), Span(5, "far"), Span(None, "near")]) == (
        "1-3 near, 5 far, 6 and more near"
    )
    assert differing([Span(None, "near")]) == "all near"
    assert differing([Span(None, DEFAULT)]) == ""
    assert (
        most_saved([Figure(1, {DEFAULT: 2.0, "near": 1.0}, "near"), Figure(2, {DEFAULT: 1.0}, DEFAULT)])
        == 0.5
    )


# ---- keeping ----


def a_choice(shape: int, way: str = "near") -> ShapeChoice:
    figures = (Figure(1, {DEFAULT: 2e-6, "near": 1e-6}, way),)
    return ShapeChoice(
        shape, "linear_gguf", f"{shape} x 64 Q4_1", (Span(1, way), Span(None, DEFAULT)), figures
    )


def test_what_is_kept_comes_back() -> None:
    kept = keeping.NOTHING.with_model("a", "A", [a_choice(1), a_choice(2)])
    kept = kept.with_model("b", "B", [a_choice(2, DEFAULT)])
    parts = keeping.machine_parts(2)
    again = keeping.decode(keeping.encode(parts, kept), parts)
    assert again == kept
    assert again.of_model("a") == [a_choice(1), a_choice(2, DEFAULT)], "a shape has one choice, the last one"
    assert again.of_model("c") is None


def test_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_SHAPES", 2)
    kept = keeping.NOTHING
    for shape, name in enumerate("abc"):
        kept = kept.with_model(name, name, [a_choice(shape)])
    assert list(kept.choices) == [1, 2]
    assert list(kept.models) == list(kept.names) == ["b", "c"]


def damaged(change: Callable[[dict[str, Any]], object]) -> bytes:
    parts = keeping.machine_parts(2)
    header, _ = unpack(keeping.encode(parts, keeping.NOTHING.with_model("a", "A", [a_choice(1)])))
    change(header)
    for added in ("format", "blob_bytes"):
        del header[added]
    return pack(header, [])


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another machine": lambda h: h["key_parts"].update(threads=3),
    "no shapes": lambda h: h.pop("shapes"),
    "a kernel that is not there": lambda h: h["shapes"][0].update(kernel="linear_magic"),
    "a kernel without ways": lambda h: h["shapes"][0].update(kernel="rms_norm"),
    "a way that is not there": lambda h: h["shapes"][0]["spans"].insert(0, [1, "magic"]),
    "spans that end": lambda h: h["shapes"][0]["spans"].pop(),
    "no spans": lambda h: h["shapes"][0]["spans"].clear(),
    "spans out of order": lambda h: h["shapes"][0]["spans"].insert(0, [9, "near"]),
    "a span of text": lambda h: h["shapes"][0]["spans"].insert(0, ["9", "near"]),
    "a shape that is none": lambda h: h["shapes"][0].update(shape=-1),
    "a label that is none": lambda h: h["shapes"][0].update(label=[1]),
    "times that are none": lambda h: h["shapes"][0]["figures"][0].__setitem__(1, {"near": "1"}),
    "more than there should be": lambda h: h["shapes"][0].update(more=1),
    "a model of text": lambda h: h["models"].update(b={"name": "b", "shapes": "x"}),
    "no models": lambda h: h.update(models=[]),
    "a busy day of text": lambda h: h["busy"].update(a="today"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_refused(what: str) -> None:
    with pytest.raises(DamagedArtifactError):
        keeping.decode(damaged(CHANGES[what]), keeping.machine_parts(2))


# ---- a start ----


class Quiet:
    """A machine that nobody else uses, on which the last way of each kernel is the fastest."""

    def __init__(self) -> None:
        self.calls = 0
        self.busy: str | None = None

    def measure(
        self,
        products: Callable[[int], Any],
        wanted: Mapping[Any, Sequence[int]],
        seconds: float,
        num_threads: int,
        progress: Callable[[int, int], None],
    ) -> Measured:
        self.calls += 1
        progress(1, 1)
        made = products(1)
        assert all(made.seconds(rows, 1).min() > 0 for rows in (1, 5))
        figures = {
            shape: [
                Figure(rows, {way: 1.0 / (place + 1) for place, way in enumerate(shape.ways)}, shape.ways[-1])
                for rows in all_rows
            ]
            for shape, all_rows in wanted.items()
        }
        return Measured(figures, self.busy)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Quiet:
    machine = Quiet()
    monkeypatch.setattr(tuner, "measure", machine.measure)
    return machine


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What runners have told the native library."""
    seen: list[Any] = []
    native = library()
    assert native is not None

    def set_ways(table: Any) -> None:
        seen.append(table)
        native.set_ways(table)

    monkeypatch.setattr(eager_runner, "set_ways", set_ways)
    return seen


def start(model: Path, cache: Path, level: int = 1, **settings: Any) -> tuple[Any, list[int]]:
    with LLM(
        str(model),
        optimization_level=level,
        max_model_len=64,
        dtype="float32",
        compilation_config={"cache_dir": str(cache)},
        **settings,
    ) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        (output,) = llm.generate(["tuned"], params, use_tqdm=False)
        return llm._loaded.tuning, list(output.outputs[0].token_ids)


def test_a_start_measures_once_and_says_the_same(
    tiny_model: Path, tmp_path: Path, quiet: Quiet, tables: list[Any]
) -> None:
    off, expected = start(tiny_model, tmp_path, kernel_config={"enable_flashinfer_autotune": False})
    assert (off, tables, quiet.calls) == (None, [[]], 0)
    first, tokens = start(tiny_model, tmp_path)
    assert tokens == expected and not first.loaded and quiet.calls == 1
    assert tables[1] == first.table() != []
    assert {choice.kernel for choice in first.choices} == {"linear_float"}
    second, tokens = start(tiny_model, tmp_path, level=2)
    assert tokens == expected and second.loaded and quiet.calls == 1
    assert (second.choices, second.kept) == (first.choices, first.kept)
    fewer, _ = start(tiny_model, tmp_path, num_threads=1)
    assert not fewer.loaded and quiet.calls == 2, "another number of threads has times of its own"
    eager, tokens = start(tiny_model, tmp_path, level=0, kernel_config={"enable_flashinfer_autotune": True})
    assert tokens == expected and eager.loaded


def test_what_a_busy_machine_measures_is_not_kept(tiny_model: Path, tmp_path: Path, quiet: Quiet) -> None:
    quiet.busy = "its threads ran 30% of the time"
    made, _ = start(tiny_model, tmp_path)
    assert (made.kept, made.loaded, quiet.calls) == (None, False, 1) and made.choices
    assert quiet.busy in made.origin


def test_starts_on_a_busy_machine_do_not_all_measure(
    tiny_model: Path, tmp_path: Path, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet.busy = "its threads ran 30% of the time"
    start(tiny_model, tmp_path)
    made, _ = start(tiny_model, tmp_path)
    assert quiet.calls == 1 and not made.choices and made.table() == []
    assert "0 minutes ago the machine was too busy" in made.origin
    assert "60 minutes from now" in made.origin and made.kept.exists()
    monkeypatch.setattr(keeping, "BUSY_SECONDS", 0.0)
    quiet.busy = None
    start(tiny_model, tmp_path)
    assert quiet.calls == 2
    assert start(tiny_model, tmp_path)[0].loaded


def test_of_two_starts_at_once_one_measures(
    tiny_model: Path, tmp_path: Path, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, both_wait = tuner._Attempt.lock, threading.Barrier(2, timeout=60)

    def lock_together(*args: Any) -> None:
        both_wait.wait()  # nobody has measured before the other wants to
        lock(*args)

    monkeypatch.setattr(tuner._Attempt, "lock", lock_together)
    settings: dict[str, Any] = {"level": 0, "kernel_config": {"enable_flashinfer_autotune": True}}
    with ThreadPoolExecutor(2) as threads:
        starts = [threads.submit(start, tiny_model, tmp_path, **settings) for _ in range(2)]
        (one, said), (other, said_too) = (a_start.result() for a_start in starts)
    assert quiet.calls == 1 and said == said_too
    assert one.loaded != other.loaded and one.table() == other.table()


def test_a_full_disk_costs_a_warning(
    tiny_model: Path,
    tmp_path: Path,
    quiet: Quiet,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING, logger="ozone"):
        made, _ = start(tiny_model, tmp_path, level=0, kernel_config={"enable_flashinfer_autotune": True})
    assert made.kept is None and made.table() != [], "what was measured is taken all the same"
    (warning,) = [message for message in caplog.messages if "tuning" in message]
    assert os.strerror(errno.ENOSPC) in warning
    assert not list((tmp_path / keeping.ROOM).iterdir())


@pytest.mark.parametrize("change", [lambda b: b[:40], lambda b: b[:-3] + b"\0" + b[-2:], lambda _: b""])
def test_a_damaged_file_costs_a_warning(
    change: Callable[[bytes], bytes],
    tiny_model: Path,
    tmp_path: Path,
    quiet: Quiet,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, expected = start(tiny_model, tmp_path)
    first.kept.write_bytes(change(first.kept.read_bytes()))
    with caplog.at_level(logging.WARNING, logger="ozone"):
        second, tokens = start(tiny_model, tmp_path)
    assert tokens == expected and not second.loaded and quiet.calls == 2
    (warning,) = [message for message in caplog.messages if "anew" in message]
    assert str(first.kept) in warning
    assert start(tiny_model, tmp_path)[0].loaded


def test_without_a_cache_nothing_is_kept(
    tiny_model: Path, tmp_path: Path, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OZONE_DISABLE_COMPILE_CACHE", "1")
    assert start(tiny_model, tmp_path)[0].kept is None
    assert quiet.calls == 1 and not (tmp_path / keeping.ROOM).exists()


def test_it_is_measured_for_real(tiny_model: Path, tmp_path: Path) -> None:
    """However busy this machine is: all shapes have their figures, of ways that they have."""
    made, _ = start(tiny_model, tmp_path)
    native = library()
    assert native is not None
    assert made.choices
    for choice in made.choices:
        ways = set(native.kernels()[choice.kernel].ways)
        assert choice.figures and all(set(one.seconds) == ways for one in choice.figures)
        assert all(seconds > 0 for one in choice.figures for seconds in one.seconds.values())
        assert choice.figures[0].rows == 1


def test_rows_are_those_that_a_step_can_have() -> None:
    shape = measuring.Shape(1, "linear_gguf", "", WAYS, False)
    head = measuring.Shape(2, "linear_gguf", "", WAYS, True)
    assert measuring.wanted_rows(shape, 16, 4) == [1, 2, 3, 4, 8, 16]
    assert measuring.wanted_rows(head, 512, 4) == [1, 2, 3, 4]
    assert max(measuring.wanted_rows(head, 512, 512)) == measuring.MOST_HEAD_ROWS


def test_the_command_line_shows_it(
    tiny_model: Path, tmp_path: Path, quiet: Quiet, capsys: pytest.CaptureFixture[str]
) -> None:
    from ozone.cli import cache, config_cmd
    from ozone.platforms import cpu

    words = [str(tiny_model), "-v", f"-cc.cache_dir={tmp_path}"]
    assert config_cmd.main(words) == 0
    assert "not tuned yet" in capsys.readouterr().out
    made, _ = start(tiny_model, tmp_path)
    assert quiet.calls == 1
    assert config_cmd.main([*words, f"--num-threads={cpu.num_cores()}"]) == 0
    out = capsys.readouterr().out
    assert all(f"{choice.kernel}" in out and choice.label in out for choice in made.choices)
    assert config_cmd.main([*words, "-O0"]) == 0
    assert "enable_flashinfer_autotune is off" in capsys.readouterr().out

    cache.main(["ls", "--json", f"-cc.cache_dir={tmp_path}"])
    rows = {row["kind"]: row for row in json.loads(capsys.readouterr().out)["kept"]}
    assert rows["tuning"]["file"] == str(made.kept)
    assert tiny_model.name in rows["tuning"]["holds"]
    cache.main(["clear", rows["tuning"]["key"][:9], f"-cc.cache_dir={tmp_path}"])
    assert not made.kept.exists()
    (tmp_path / keeping.ROOM / ("0" * 64 + ".ozone")).write_bytes(b"no")
    cache.main(["ls", f"-cc.cache_dir={tmp_path}"])
    assert "damaged" in capsys.readouterr().out


def test_what_a_dump_shows(tiny_model: Path, tmp_path: Path, quiet: Quiet) -> None:
    settings = {"debug_dump_path": f"{tmp_path}/dump", "cache_dir": f"{tmp_path}/cache"}
    with LLM(str(tiny_model), optimization_level=1, max_model_len=64, compilation_config=settings):
        assert quiet.calls == 1
    report = json.loads((tmp_path / "dump" / "report.json").read_text())
    assert report["tuning"]["origin"] == "measured by this start"
    assert {choice["kernel"] for choice in report["tuning"]["choices"]} == {"linear_float"}
    assert "linear_float" in (tmp_path / "dump" / "tuning.txt").read_text()


def test_kept_is_only_what_a_model_still_has() -> None:
    kept = Kept({}, {"a": [1]}, {"a": "A"})
    assert kept.of_model("a") is None
