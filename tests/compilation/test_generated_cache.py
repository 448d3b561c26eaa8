"""Generated steps that survive their process: libraries are compiled once, verified before they are loaded,
and a start that finds all it needs imports neither Dynamo nor Inductor.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_case import Case, make_case
from torch import Tensor, fx

from ozone.compilation import libraries
from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.called import CalledStep
from ozone.compilation.calls import Call, Calls, Value, from_json, to_json
from ozone.compilation.described import UndescribableError
from ozone.compilation.generated_cache import GeneratedCache, GeneratedSteps
from ozone.compilation.libraries import Libraries
from ozone.engine.input_buffers import BatchCounts
from ozone.errors import CompileError, ConfigError
from ozone.ops.registry import NATIVE

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="generated code needs a C++ compiler")

# One kind of piece, so that there is one library to compile.
OPS = ("all", "-silu_and_mul")


@pytest.fixture(scope="module")
def generated_case(tiny_model: Path) -> Case:
    return make_case(tiny_model, custom_ops=OPS)


def start(directory: Path, case: Case) -> GeneratedSteps:
    cache = GeneratedCache(directory, {"model": "tiny", "level": 1})
    return cache.load_or_generate(*case, 1, lambda done, total: None)


@pytest.fixture(scope="module")
def filled(generated_case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a first start leaves in the cache."""
    directory = tmp_path_factory.mktemp("cache")
    made = start(directory, generated_case)
    assert not made.loaded
    assert made.kept is not None
    assert [of["libraries"] for of in made.summary()] == [1]
    assert [path.suffix for room in ("steps", "libraries") for path in (directory / room).iterdir()] == [
        ".ozone",
        ".ozone",
    ]
    return directory


@pytest.fixture
def directory(filled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(filled, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def compiled(filled: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Compiling takes no time in this test; how often it happened is the length of this."""
    calls: list[Any] = []
    (file,) = (filled / "libraries").iterdir()
    _, (code,) = unpack(file.read_bytes())

    def compile_at_once(*arguments: Any) -> tuple[bytes, str]:
        calls.append(arguments)
        return code, "its source"

    monkeypatch.setattr(libraries, "_compiled", compile_at_once)
    return calls


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def hidden(case: Case, made: GeneratedSteps) -> Tensor:
    """What a step of two requests gives."""
    (of,) = made.ranges
    step = CalledStep(of.calls, case.step, case.inputs, made.libraries)
    case.inputs.token_ids.copy_(torch.arange(32) % 50)
    case.inputs.positions[:5] = torch.tensor([0, 1, 2, 0, 1])
    case.inputs.slot_mapping[:5] = torch.tensor([0, 1, 2, 16, 17])
    case.inputs.block_tables.copy_(torch.arange(16).view(4, 4) // 4)
    case.inputs.query_start_loc[:3] = torch.tensor([0, 3, 5])
    case.inputs.seq_lens[:2] = torch.tensor([3, 2])
    with torch.inference_mode():
        return step(BatchCounts(5, 2, 2)).clone()


def test_a_later_start_loads_what_the_first_one_made(
    generated_case: Case, directory: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler, too."""
    monkeypatch.setenv("PATH", "")
    made = start(directory, generated_case)
    assert made.loaded
    assert compiled == []
    eager = generated_case._replace(config=dataclasses.replace(generated_case.config, backend="eager"))
    as_traced = start(directory, eager)
    assert not as_traced.loaded
    torch.testing.assert_close(hidden(generated_case, made), hidden(eager, as_traced), rtol=0, atol=1e-6)
    assert hidden(generated_case, made).abs().sum() > 0


def test_other_settings_share_libraries(generated_case: Case, directory: Path, compiled: list[Any]) -> None:
    other = dataclasses.replace(generated_case.config, compile_ranges_endpoints=(8, 32))
    made = start(directory, generated_case._replace(config=other))
    assert (made.loaded, len(made.ranges), compiled) == (False, 2, [])


@pytest.mark.parametrize("room", ["libraries", "steps"])
@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_damaged_files_are_made_anew_with_one_warning(
    room: str,
    damage: str,
    generated_case: Case,
    directory: Path,
    compiled: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (file,) = (directory / room).iterdir()
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        file.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    else:
        header, blobs = unpack(whole)
        file.write_bytes(pack({**header, "key": "another"}, blobs))
    made = start(directory, generated_case)
    assert not made.loaded
    assert len(compiled) == (room == "libraries")
    (warning,) = warnings(caplog)
    assert str(file) in warning
    assert "compiled anew" in warning
    assert start(directory, generated_case).loaded
    assert len(warnings(caplog)) == 1


def test_a_library_that_is_gone_is_compiled_without_a_word(
    generated_case: Case, directory: Path, compiled: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = (directory / "libraries").iterdir()
    file.unlink()
    assert not start(directory, generated_case).loaded
    assert (len(compiled), warnings(caplog)) == (1, [])
    assert file.exists()


def test_what_is_no_library_is_never_run(
    generated_case: Case, directory: Path, compiled: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = (directory / "libraries").iterdir()
    header, (code,) = unpack(file.read_bytes())
    file.write_bytes(pack(header, [b"#!/bin/sh" + code[9:]]))
    assert not start(directory, generated_case).loaded
    (warning,) = warnings(caplog)
    assert str(file) in warning


def test_a_directory_that_others_can_write_is_not_used(
    generated_case: Case, directory: Path, compiled: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "libraries").chmod(0o777)
    assert not start(directory, generated_case).loaded
    assert len(compiled) == 1
    (warning,) = warnings(caplog)
    assert "other users can write there" in warning


def test_nothing_is_kept_without_a_directory(generated_case: Case, compiled: list[Any]) -> None:
    made = GeneratedCache().load_or_generate(*generated_case, 1, lambda done, total: None)
    assert (made.loaded, made.kept, len(compiled)) == (False, None, 1)


def test_a_dump_is_made_of_a_compilation(generated_case: Case, directory: Path, compiled: list[Any]) -> None:
    config = dataclasses.replace(generated_case.config, debug_dump_path="/dump")
    assert not start(directory, generated_case._replace(config=config)).loaded
    assert len(compiled) == 1


def test_no_compiler_is_a_clear_mistake(
    generated_case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"-cc.custom_ops=.* needs a C\+\+ compiler.*-cc.custom_ops=all"):
        start(tmp_path, generated_case)


def one_op_graph(op: Any, *shape: int) -> tuple[fx.GraphModule, Tensor]:
    from torch._subclasses import FakeTensorMode

    example = torch.rand(shape)
    graph = fx.Graph()
    placeholder = graph.placeholder("x")
    with FakeTensorMode() as mode:
        placeholder.meta["val"] = mode.from_tensor(example)
    graph.output((graph.call_function(op, (placeholder,)),))
    return fx.GraphModule({}, graph), example


def test_keys_tell_apart_what_a_library_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = one_op_graph(torch.ops.aten.silu.default, 4, 4)

    def key(options: dict[str, Any], threads: int, known: dict[str, int]) -> str:
        return Libraries(options, threads, None).key(graph.graph, known)

    keys = [key({}, 1, {}), key({}, 2, {}), key({"max_autotune": True}, 1, {}), key({}, 1, {"u0": 3})]
    monkeypatch.setattr("ozone.platforms.cpu.fingerprint", lambda: "another CPU")
    keys.append(key({}, 1, {}))
    monkeypatch.setattr(torch, "__version__", "0")
    keys.append(key({}, 1, {}))
    assert len({*keys}) == 6


@pytest.mark.slow
def test_an_op_that_a_library_could_only_call_is_a_clear_error() -> None:
    graph, example = one_op_graph(torch.ops.ozone.silu_and_mul.default, 4, 32)
    with pytest.raises(CompileError, match="generates no code"):
        Libraries({}, 1, None).compile("key", graph, [example], {})


@pytest.mark.slow
@pytest.mark.filterwarnings("error::FutureWarning")
def test_generating_code_warns_of_nothing() -> None:
    graph, example = one_op_graph(torch.ops.aten.relu.default, 4, 32)
    Libraries({}, 1, None).compile("key", graph, [example], {})


CALLS = Calls(
    [("weight", 0)],
    [("token_ids", 1), ("tokens", 2)],
    [
        Call("ozone::rms_norm.default", False, [Value(1), Value(0), 1e-6], {}, (3,)),
        Call("aten::view.default", False, [Value(3), [Value(2), -1]], {}, (4,)),
        Call("aten::_to_copy.default", False, [Value(4)], {"dtype": torch.bfloat16}, (5,)),
        Call("library", True, [Value(5)], {}, (6, 7)),
    ],
    7,
)


def test_calls_survive_as_json() -> None:
    assert from_json(json.loads(json.dumps(to_json(CALLS)))) == CALLS
    assert CALLS.libraries == {"library"}


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(result=8),
        lambda plain: plain["calls"].pop(0),
        lambda plain: plain["calls"][0].update(target="os::system.default"),
        lambda plain: plain["calls"][0].update(target="eval"),
        lambda plain: plain["calls"][0].update(results=[3, 8]),
        lambda plain: plain["calls"][2]["kwargs"].update(dtype={"dtype": "load"}),
        lambda plain: plain["calls"][2]["kwargs"].update(dtype={"pickle": "x"}),
        lambda plain: plain.update(calls=None),
    ],
)
def test_calls_that_do_not_fit_are_refused(change: Callable[[Any], Any]) -> None:
    plain = json.loads(json.dumps(to_json(CALLS)))
    change(plain)
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        from_json(plain)


def test_what_json_has_not_is_not_kept() -> None:
    odd = Call("aten::view.default", False, [Value(0), object()], {}, (1,))
    with pytest.raises(UndescribableError):
        to_json(Calls([("weight", 0)], [], [odd], 1))


def test_a_step_that_needs_another_weight_is_damaged(generated_case: Case, directory: Path) -> None:
    from ozone.compilation.generated_cache import _decode

    (file,) = (directory / "steps").iterdir()
    header, _ = unpack(file.read_bytes())
    header["ranges"][0]["calls"]["constants"][0][0] = "no.such.weight"
    with pytest.raises(DamagedArtifactError, match=r"needs no\.such\.weight"):
        _decode(pack(header, []), header["key"], generated_case.step, None)


# A whole start on the tiny model; what it prints says what happened.
_START = """
import json, sys
import ozone.compilation.libraries as libraries
compiled = libraries._compiled
def compile_loudly(*arguments):
    print("compiling", flush=True)
    return compiled(*arguments)
libraries._compiled = compile_loudly
from ozone import LLM, SamplingParams
settings = {"custom_ops": ["all", "-silu_and_mul"], "mode": sys.argv[2]}
with LLM(sys.argv[1], optimization_level=1, num_threads=1, kv_cache_memory_bytes=1 << 20,
         compilation_config=settings) as llm:
    (output,) = llm.generate("The cat", SamplingParams(max_tokens=8, temperature=0), use_tqdm=False)
imported = [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]
print(json.dumps({"tokens": list(output.outputs[0].token_ids), "imported": imported}))
"""


def spawn(model: Path, cache: Path, mode: str = "VLLM_COMPILE", **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _START, str(model), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OZONE_CACHE_DIR": str(cache), **environment},
    )


def outcome(process: subprocess.Popen[str]) -> tuple[bool, list[int], list[str]]:
    """Whether it compiled, its tokens, what it imported."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    *lines, report = out.splitlines()
    answer = json.loads(report)
    return bool(lines), answer["tokens"], answer["imported"]


@pytest.mark.skipif(not NATIVE, reason="without the native library the model's type is another")
def test_of_starts_at_once_one_compiles_and_warm_ones_import_neither_dynamo_nor_inductor(
    tiny_model: Path, tmp_path: Path
) -> None:
    at_once = [outcome(process) for process in [spawn(tiny_model, tmp_path) for _ in range(2)]]
    assert sorted(compiled for compiled, _, _ in at_once) == [False, True]
    warm = outcome(spawn(tiny_model, tmp_path))
    assert (warm[0], warm[2]) == (False, [])
    # The other mode cuts elsewhere, and finds the library.
    once = outcome(spawn(tiny_model, tmp_path, "DYNAMO_TRACE_ONCE"))
    assert not once[0]
    assert len({tuple(tokens) for _, tokens, _ in (*at_once, warm, once)}) == 1
