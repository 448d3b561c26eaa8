"""Compiling in a process of its own gives the same programs, and nothing that happens to it stops a start."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compiled_case import Case

from ozone.compilation import artifacts
from ozone.compilation.artifact_file import pack
from ozone.compilation.artifact_key import key_of, key_parts
from ozone.compilation.artifact_store import ArtifactStore
from ozone.compilation.artifacts import ProgramCache
from ozone.compilation.compile_process import (
    CompileProcess,
    compiled_before,
    remember,
    runs_programs,
    start_if_it_pays,
)
from ozone.compilation.compiler import RangeProgram, unnamed
from ozone.compilation.failures import ForeignOpError
from ozone.compilation.handover import dumps, loads
from ozone.config.args import EngineArgs
from ozone.config.resolve import resolve
from ozone.config.schema import CompilationConfig, CompilationMode, OzoneConfig
from ozone.errors import CompileError
from ozone.native import platform_facts
from ozone.ops.registry import NATIVE
from ozone.weights.model_files import open_model

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs need the native library")


def span_bytes(case: Case) -> dict[str, int]:
    tensors = {**dict(case.step.constants()), **case.inputs._asdict()}
    return {name: x.untyped_storage().nbytes() for name, x in tensors.items()}


def words(ranges: Any) -> list[Any]:
    return [[piece.program.words for piece in made.lowered.pieces] for made in ranges]


def answering(answer: bytes) -> CompileProcess:
    """A process that reads its step and says this."""
    program = f"import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write({answer!r})"
    return CompileProcess([sys.executable, "-c", program])


def test_a_step_that_is_handed_over_has_the_key_of_the_one_that_stays(case: Case) -> None:
    over = Case(*loads(dumps(tuple(case))))
    parts = key_parts(over.step, over.inputs, over.config, over.capacity)
    assert key_of(parts) == key_of(key_parts(case.step, case.inputs, case.config, case.capacity))
    assert span_bytes(over) == span_bytes(case)


def test_another_process_makes_the_same_programs(case: Case, ranges: list[RangeProgram]) -> None:
    with CompileProcess() as process:
        made = process.compile(*case, span_bytes(case), unnamed)
    assert made is not None
    assert words(made) == words(ranges)
    assert [of.lowered.memory for of in made] == [of.lowered.memory for of in ranges]
    assert [[r.places for r in of.passes] for of in made] == [[r.places for r in of.passes] for of in ranges]


def test_its_errors_are_those_of_compiling(case: Case) -> None:
    problem = pack({"problem": "piece 3 makes no sense"}, [])
    with answering(problem) as process, pytest.raises(CompileError, match="piece 3 makes no sense"):
        process.compile(*case, span_bytes(case), unnamed)
    foreign, message = (
        pack({"foreign": ["aten.relu.default", "relu"]}, []),
        r"aten.relu.default is no .*relu\)",
    )
    with answering(foreign) as process, pytest.raises(ForeignOpError, match=message):
        process.compile(*case, span_bytes(case), unnamed)


@pytest.mark.parametrize("answer", [b"", b"OZONEART", pack({}, [])[:-1], pack({"ranges": [{}]}, [])])
def test_whatever_else_it_says_the_start_compiles_by_itself(
    answer: bytes,
    case: Case,
    ranges: list[RangeProgram],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artifacts, "compile_step", lambda *_: ranges)
    with answering(answer) as process:
        programs = ProgramCache(tmp_path, {}, process).load_or_compile(*case)
    assert programs.ranges is ranges
    assert programs.kept is not None


def test_a_process_that_is_killed_hangs_nobody(case: Case) -> None:
    with CompileProcess([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        os.kill(process._process.pid, signal.SIGKILL)
        assert process.compile(*case, span_bytes(case), unnamed) is None


def test_a_process_that_nobody_needs_ends() -> None:
    with CompileProcess([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        process.stop()
    assert process._process.returncode == -signal.SIGKILL


def config(model: Path, cache: Path, level: int = 1, **compilation: Any) -> OzoneConfig:
    given = {"cache_dir": str(cache), **compilation}
    args = EngineArgs(model=str(model), optimization_level=level, compilation_config=given)
    return resolve(args, open_model(str(model)).config, platform_facts())


def test_a_start_knows_what_an_earlier_one_has_kept(tiny_model: Path, tmp_path: Path) -> None:
    first = config(tiny_model, tmp_path)
    assert not compiled_before(first)
    with ArtifactStore(tmp_path) as store:
        store.write("a" * 64, b"programs")
        remember(first, store.file("a" * 64))
        assert compiled_before(first)
        assert not compiled_before(config(tiny_model, tmp_path, custom_ops=["all"], splitting_ops=[]))
        store.remove("a" * 64)
    assert not compiled_before(first)


def test_only_starts_that_will_trace_get_a_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OZONE_DISABLE_COMPILE_CACHE", raising=False)
    plain = config(tiny_model, tmp_path)
    assert start_if_it_pays(plain, native=True, cores=1) is None
    assert start_if_it_pays(plain, native=False, cores=2) is None
    for other in (
        config(tiny_model, tmp_path, 0),
        config(tiny_model, tmp_path, custom_ops=["none"]),
        config(tiny_model, tmp_path, debug_dump_path=str(tmp_path / "dump")),
    ):
        assert start_if_it_pays(other, native=True, cores=2) is None
    process = start_if_it_pays(plain, native=True, cores=2)
    assert process is not None
    process.stop()
    monkeypatch.setenv("OZONE_DISABLE_COMPILE_CACHE", "1")
    assert start_if_it_pays(plain, native=True, cores=2) is None


def test_programs_are_what_all_custom_ops_make() -> None:
    mode = CompilationMode.VLLM_COMPILE
    compilation = CompilationConfig(mode=mode, custom_ops=("all",))
    assert runs_programs(compilation, native=True)
    assert not runs_programs(dataclasses.replace(compilation, custom_ops=("none",)), native=True)


_START = """
import json, sys
from ozone.config.args import EngineArgs
from ozone.entrypoints.assemble import load
args = EngineArgs(sys.argv[1], optimization_level=2, num_threads=1, kv_cache_memory_bytes=1 << 20)
loaded = load(args, compile_apart=True)
loaded.engine.shutdown()
(made,) = loaded.programs.summary()
print(json.dumps({"pieces": made["pieces"], "dynamo": "torch._dynamo" in sys.modules}))
"""


def test_a_first_start_leaves_dynamo_to_the_other_process(tiny_model: Path, tmp_path: Path) -> None:
    def start(**environment: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", _START, str(tiny_model)],
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
            env=os.environ | {"OZONE_CACHE_DIR": str(tmp_path), **environment},
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    alone = start(OZONE_DISABLE_COMPILE_CACHE="1")
    cold, warm = start(), start()
    assert len(list((tmp_path / "programs").iterdir())) == 1
    assert cold["pieces"] == warm["pieces"] == alone["pieces"]
    assert not warm["dynamo"]
    if platform_facts().num_cores > 1:
        assert not cold["dynamo"]
