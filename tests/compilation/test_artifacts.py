"""Programs that survive their process: one start compiles, others load, and whatever goes wrong with what is
kept, a start gets right programs and says so once.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_case import Case, make_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from step_harness import bound

from ozone.compilation import artifacts
from ozone.compilation import kept as kept_things
from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.artifact_store import ArtifactStore
from ozone.compilation.artifacts import ProgramCache, Programs, decode, encode
from ozone.compilation.compiler import RangeProgram
from ozone.compilation.lowering import Lowered, LoweredPiece, Result
from ozone.engine.input_buffers import BatchCounts
from ozone.ops.registry import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs need the native library")

LABEL = {"model": "tiny", "level": 1}


def as_words(ranges: Sequence[RangeProgram]) -> list[Any]:
    return [
        (
            (made.first, made.last, made.lowered.memory, made.lowered.pool_bytes, made.lowered.result),
            made.passes,
            [(piece.program.words, piece.splits) for piece in made.lowered.pieces],
        )
        for made in ranges
    ]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, ranges: list[RangeProgram]) -> list[Any]:
    """Compiling takes no time in this test; how often it happened is the length of this."""
    calls: list[Any] = []

    def compile_step(*arguments: Any) -> list[RangeProgram]:
        calls.append(arguments)
        return ranges

    monkeypatch.setattr(artifacts, "compile_step", compile_step)
    return calls


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return found


def start(directory: Path, case: Case) -> Programs:
    return ProgramCache(directory, LABEL).load_or_compile(*case)


def test_a_later_start_loads_what_the_first_one_made(
    case: Case,
    ranges: list[RangeProgram],
    compiled: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = start(tmp_path, case)
    second = start(tmp_path, case)
    assert (first.loaded, second.loaded, len(compiled)) == (False, True, 1)
    assert first.kept == second.kept is not None
    assert as_words(second.ranges) == as_words(ranges)
    assert [path.name for path in (tmp_path / "programs").iterdir()] == [second.kept.name]
    assert warnings(caplog) == []


def test_loaded_programs_give_the_bits_of_compiled_ones(
    case: Case, ranges: list[RangeProgram], compiled: list[Any], tmp_path: Path
) -> None:
    start(tmp_path, case)
    loaded = start(tmp_path, case).ranges
    case.inputs.token_ids.copy_(torch.arange(32) % 50)
    case.inputs.positions.copy_(torch.arange(32) % 16)
    case.inputs.slot_mapping.copy_(torch.arange(32))
    case.inputs.block_tables.copy_(torch.arange(16).view(4, 4) // 4)
    results = []
    for programs in (ranges, loaded):
        step = bound(programs, case.step, case.inputs)
        for lengths in ([3, 2], [16, 9]):
            starts = torch.tensor([0, *lengths]).cumsum(0)
            case.inputs.query_start_loc[:3] = starts
            case.inputs.seq_lens[:2] = torch.tensor(lengths)
            case.inputs.positions[: starts[-1]] = torch.cat([torch.arange(n) for n in lengths])
            first, second = (torch.arange(n) + 16 * i for i, n in enumerate(lengths))
            case.inputs.slot_mapping[: starts[-1]] = torch.cat((first, second))
            results.append(step.hidden(BatchCounts(int(starts[-1]), 2, 2)).clone())
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])
    assert results[1].abs().sum() > 0


def test_every_field_of_a_program_is_kept() -> None:
    """A new field has to be added to `encode` and `decode`, and to `as_words` above."""
    fields = {kind: {f.name for f in dataclasses.fields(kind)} for kind in _KEPT}
    assert fields == _KEPT


_KEPT = {
    RangeProgram: {"first", "last", "lowered", "passes"},
    Lowered: {"pieces", "memory", "pool_bytes", "result"},
    LoweredPiece: {"program", "splits"},
    Result: {"offset", "columns", "dtype"},
}


@pytest.fixture(scope="module")
def content(case: Case, ranges: list[RangeProgram]) -> bytes:
    return encode({"label": LABEL}, "key", ranges, spans(case))


def spans(case: Case) -> dict[str, int]:
    tensors = {**dict(case.step.constants()), **case.inputs._asdict()}
    return {name: x.untyped_storage().nbytes() for name, x in tensors.items()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 1 << 20), cut=st.booleans(), bit=st.integers(0, 7))
def test_damaged_files_are_compiled_anew_with_one_warning(
    at: int,
    cut: bool,
    bit: int,
    case: Case,
    ranges: list[RangeProgram],
    compiled: list[Any],
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = tmp_path_factory.mktemp("cache")
    kept = start(directory, case).kept
    assert kept is not None
    whole = kept.read_bytes()
    place = at % len(whole)  # the length varies: when it was made is in it
    if cut:
        kept.write_bytes(whole[:place])
    else:
        changed = whole[place] ^ (1 << bit)
        kept.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
    assert warnings(caplog) == []
    compiled.clear()
    again = start(directory, case)
    assert (again.loaded, again.kept, len(compiled)) == (False, kept, 1)
    assert as_words(again.ranges) == as_words(ranges)
    (warning,) = warnings(caplog)
    assert str(kept) in warning
    assert "compiled anew" in warning
    after = start(directory, case)
    assert (after.loaded, len(compiled), warnings(caplog)) == (True, 1, [])


def _lie(content: bytes, **changes: Any) -> bytes:
    """The artifact with another description of its first range, and the digest of that."""
    header, blobs = unpack(content)
    header["ranges"][0] |= changes
    return pack(header, blobs)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": ["no.such.weight"], "memory_bytes": [8]},
        {"memory_bytes": []},
        {"first": 2},
        {"first": 32},
        {"last": 7},
        {"pool_bytes": 0},
        {"result": {"offset": -64, "columns": 32, "dtype": "torch.float32"}},
        {"result": {"offset": 1 << 40, "columns": 32, "dtype": "torch.float32"}},
        {"result": {"offset": 0, "columns": 32, "dtype": "torch.int8"}},
        {"splits": [False] * 1000},
        {"splits": []},
        {"splits": None},
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    changes: dict[str, Any], content: bytes, case: Case
) -> None:
    assert decode(content, "key", spans(case))
    with pytest.raises(DamagedArtifactError):
        decode(_lie(content, **changes), "key", spans(case))


def test_other_memory_other_kernels_and_other_keys_are_refused(content: bytes, case: Case) -> None:
    sizes = spans(case)
    with pytest.raises(DamagedArtifactError, match="another one's"):
        decode(content, "other", sizes)
    with pytest.raises(DamagedArtifactError, match=r"norm\.weight has 127 bytes instead of 128"):
        decode(content, "key", sizes | {"norm.weight": 127})
    with pytest.raises(DamagedArtifactError, match=r"needs norm\.weight"):
        decode(content, "key", {name: size for name, size in sizes.items() if name != "norm.weight"})
    header, blobs = unpack(content)
    version = bytearray(blobs[0])
    version[4] += 1  # of the first launch's kernel: the upper half of its first word
    with pytest.raises(DamagedArtifactError, match="kernel that this library does not have"):
        decode(pack(header, [bytes(version), *blobs[1:]]), "key", sizes)


def test_a_full_disk_costs_the_cache_and_nothing_else(
    case: Case,
    ranges: list[RangeProgram],
    compiled: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    programs = start(tmp_path, case)
    assert (programs.kept, programs.loaded) == (None, False)
    assert programs.ranges is ranges
    (warning,) = warnings(caplog)
    assert warning.startswith("compiled programs are not cached: ")
    assert "No space left" in warning
    assert list((tmp_path / "programs").iterdir()) == []


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_a_directory_that_may_only_be_read_is_read(
    error: int,
    case: Case,
    compiled: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    os_open = os.open

    def read_only(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(error, os.strerror(error))
        return os_open(path, flags, *arguments, **named)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    start(tmp_path, case)
    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", refuse)
    assert start(tmp_path, case).loaded
    assert warnings(caplog) == []
    other = case._replace(config=dataclasses.replace(case.config, compile_ranges_endpoints=(8, 16, 32)))
    assert start(tmp_path, other).kept is None
    (warning,) = warnings(caplog)
    assert os.strerror(error) in warning


@pytest.mark.parametrize("mode", [0o777, 0o000])
def test_a_directory_that_cannot_be_trusted_or_opened_is_one_warning(
    mode: int, case: Case, compiled: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if mode == 0 and os.geteuid() == 0:
        pytest.skip("root opens everything")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs").chmod(mode)
    programs = start(tmp_path, case)
    assert (programs.kept, programs.loaded, len(compiled)) == (None, False, 1)
    (warning,) = warnings(caplog)
    assert str(tmp_path / "programs") in warning


def test_a_dump_is_made_of_a_compilation(case: Case, compiled: list[Any], tmp_path: Path) -> None:
    dumped = case._replace(config=dataclasses.replace(case.config, debug_dump_path="/dump"))
    for _ in range(2):
        assert not start(tmp_path, dumped).loaded
    assert start(tmp_path, case).loaded
    assert len(compiled) == 2


def test_a_model_without_a_key_is_compiled(
    tiny_model: Path, compiled: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = make_case(tiny_model)
    case.step.model.norm.note = iter(())
    assert start(tmp_path, case).kept is None
    (warning,) = warnings(caplog)
    assert "tuple_iterator" in warning


def test_who_waits_in_vain_compiles(
    case: Case,
    compiled: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_things, "PATIENCE_SECONDS", 0.1)
    kept = start(tmp_path, case).kept
    assert kept is not None
    kept.unlink()
    with ArtifactStore(tmp_path) as store, store.lock(kept.stem, 1):
        assert start(tmp_path, case).kept == kept
    assert len(compiled) == 2
    (warning,) = warnings(caplog)
    assert "not waiting" in warning


# A whole start of the default path on the tiny model; what it prints says what happened.
_START = """
import json, sys
import ozone.compilation.artifacts as artifacts
compile_step = artifacts.compile_step
def compile_loudly(*arguments):
    print("compiling", flush=True)
    if "hang" in sys.argv:
        import time
        time.sleep(600)
    return compile_step(*arguments)
artifacts.compile_step = compile_loudly
from ozone import LLM, SamplingParams
with LLM(sys.argv[1], optimization_level=2, num_threads=1, kv_cache_memory_bytes=1 << 20) as llm:
    (output,) = llm.generate("The cat", SamplingParams(max_tokens=8, temperature=0), use_tqdm=False)
print(json.dumps({"tokens": list(output.outputs[0].token_ids), "dynamo": "torch._dynamo" in sys.modules}))
"""


def spawn(model: Path, cache: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _START, str(model), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OZONE_CACHE_DIR": str(cache), **environment},
    )


def outcome(process: subprocess.Popen[str]) -> tuple[bool, list[int], bool]:
    """Whether it compiled, its tokens, whether it imported Dynamo."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    *lines, report = out.splitlines()
    answer = json.loads(report)
    return lines == ["compiling"], answer["tokens"], answer["dynamo"]


def test_of_starts_at_once_one_compiles_and_warm_ones_never_import_dynamo(
    tiny_model: Path, tmp_path: Path
) -> None:
    (_, expected, _) = outcome(spawn(tiny_model, tmp_path, OZONE_DISABLE_COMPILE_CACHE="1"))
    assert not (tmp_path / "programs").exists()
    at_once = [outcome(process) for process in [spawn(tiny_model, tmp_path) for _ in range(3)]]
    assert sorted(compiled for compiled, _, _ in at_once) == [False, False, True]
    for compiled, tokens, dynamo in (*at_once, outcome(spawn(tiny_model, tmp_path))):
        assert tokens == expected
        assert dynamo == compiled
    assert len(list((tmp_path / "programs").iterdir())) == 1


def test_a_start_killed_while_it_compiles_does_not_stop_the_one_that_waits(
    tiny_model: Path, tmp_path: Path
) -> None:
    killed = spawn(tiny_model, tmp_path, "hang")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "compiling\n"
    waiting = spawn(tiny_model, tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=6)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(timeout=60) == -signal.SIGKILL
    killed.communicate()
    compiled, tokens, _ = outcome(waiting)
    assert compiled
    assert len(tokens) > 0
    assert len(list((tmp_path / "programs").iterdir())) == 1
    assert outcome(spawn(tiny_model, tmp_path)) == (False, tokens, False)
