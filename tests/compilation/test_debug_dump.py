"""A dump shows what was made of a model in every mode, escapes it, and takes the place of an older one."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from ozone import LLM
from ozone.compilation import pass_manager
from ozone.compilation.debug_dump.directory import DumpDirectory
from ozone.compilation.debug_dump.listing import difference
from ozone.compilation.debug_dump.page import page
from ozone.compilation.debug_dump.records import (
    BufferRecord,
    ChangeRecord,
    DumpRecord,
    GraphRecord,
    NodeRecord,
    PieceRecord,
)
from ozone.errors import CompileError, ConfigError
from ozone.layers import activation
from ozone.native import library
from ozone.ops.registry import NATIVE, OPS

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs need the native library")

SECTIONS = ["overview", "phases", "tuning", "passes", "changes", "pieces", "memory", "traced", "settings"]
VOID = {"meta", "br", "hr"}
EAGER = {"backend": "eager"}


class Page(HTMLParser):
    """A page read strictly: its sections, links, all text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.sections: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.attributes |= found.keys()
        if (name := found.get("id")) is not None:
            self.ids.append(name)
            if tag == "section":
                self.sections.append(name)
        if (target := found.get("href")) is not None:
            self.links.append(target)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class Dump:
    """What lies in a dump's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.report: dict[str, Any] = json.loads((path / "report.json").read_text())
        self.page = Page((path / "index.html").read_text())

    def text(self, name: str) -> str:
        return (self.path / name).read_text()


def start(model: Path, path: Path, level: int = 1, **compilation: Any) -> Dump:
    settings = {**compilation, "debug_dump_path": str(path)}
    with LLM(str(model), optimization_level=level, max_model_len=64, compilation_config=settings):
        pass
    return Dump(path)


@pytest.fixture(scope="module")
def programs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Dump:
    """Two ranges of token counts; a fusion in the first."""
    passes = {"rope_kvcache_fusion_max_token_num": 8}
    return start(tiny_model, tmp_path_factory.mktemp("dump") / "new", pass_config=passes)


def test_the_settings_are_there_with_who_set_them(programs: Dump) -> None:
    settings = json.loads(programs.text("config.json"))
    assert settings["compilation_config.mode"] == {
        "value": "VLLM_COMPILE",
        "origin": "-O1",
        "reason": settings["compilation_config.mode"]["reason"],
    }
    assert settings["compilation_config.debug_dump_path"]["origin"] == "user"
    assert re.search(r"-cc.mode +VLLM_COMPILE +-O1", programs.text("config.txt"))


def test_the_traced_graph_reads_like_code(programs: Dump) -> None:
    code = programs.text("traced.py")
    assert "    positions,  # int32[tokens]\n" in code
    assert "    layers.1.mlp.down_proj.weight,  # float32[1, 64, 48, 1]\n" in code
    norm = (
        "rms_norm = ozone.rms_norm(embedding, layers.0.input_layernorm.weight, 1e-05)  # float32[tokens, 32]"
    )
    assert f"    {norm}" in code.splitlines()
    assert "    return (rms_norm_4,)\n" in code
    assert not re.search(r"\bu\d|arg\d|getitem", code)


def test_a_pass_has_its_graph_with_the_changed_lines_marked(programs: Dump) -> None:
    first, second = programs.report["graphs"]
    assert (first["steps"], second["steps"]) == ("1 to 8 tokens", "9 to 512 tokens")
    places = {made["name"]: made["places"] for made in first["passes"]}
    assert places["fuse_rope_kvcache"] == 2 and places["fuse_norm_quant"] == 0
    assert all((made["places"] == 0) == (made["reason"] is not None) for made in first["passes"])
    (not_there,) = [made for made in second["passes"] if made["name"] == "fuse_rope_kvcache"]
    assert (not_there["places"], not_there["reason"]) == (0, "on up to 8 tokens")

    for number, made in enumerate(first["passes"], start=1):
        after = programs.text(f"{first['folder']}/{number}-{made['name']}.py")
        marked = programs.text(f"{first['folder']}/{number}-{made['name']}.diff").splitlines()
        assert bool(marked) == (made["places"] > 0)
        assert all(line[1:] in after for line in marked if line.startswith("+"))
    assert sum(line.startswith("-    kv_write") for line in marked) == 2
    assert sum(line.startswith("+    rotary_embedding_kv_write") for line in marked) == 2
    assert "-    kv_write_1 = ozone.kv_write(" in programs.page.text


def test_pieces_say_which_are_equal_and_what_they_launch(programs: Dump) -> None:
    first, second = programs.report["graphs"]
    assert [piece["kind"] for piece in first["pieces"]] == ["A", "B", "C", "B", "D"]
    assert [piece["splits"] for piece in first["pieces"]] == [False, True, False, True, False]
    for graph in (first, second):
        text = programs.text(f"{graph['folder']}/pieces.txt")
        assert "piece 3, kind B, equal to 1: a program of native kernels" in text
        launches = re.findall(r"^ {8}(\w+)\((.*)\)$", text, re.MULTILINE)
        assert len(launches) == sum(piece["launches"] for piece in graph["pieces"])
        assert {kernel for kernel, _ in launches} <= set(library().kernels())
    norm = r"rms_norm\(out=pool\+\d+, x=pool, weight=layers.0.input_layernorm.weight, tokens=num_tokens, "
    assert re.search(norm, programs.text(f"{first['folder']}/pieces.txt"))
    assert re.search(norm, programs.page.text)


def test_memory_is_there_with_lifetimes(programs: Dump) -> None:
    for graph in programs.report["graphs"]:
        buffers = graph["buffers"]
        assert max(buffer["offset"] + buffer["bytes"] for buffer in buffers) == graph["pool_bytes"]
        assert buffers[0]["first"] == "embedding" and buffers[0]["last"] == "fused_add_rms_norm"
        assert len(programs.text(f"{graph['folder']}/memory.txt").splitlines()) == len(buffers) + 2
    assert {"svg", "rect"} <= programs.page.tags


def test_exact_sizes_have_graphs_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    passes = {"rope_kvcache_fusion_max_token_num": 8}
    sizes: dict[str, Any] = {"compile_ranges_endpoints": [512], "compile_sizes": [4], "pass_config": passes}
    everything, exactly = start(tiny_model, tmp_path / "programs", **sizes).report["graphs"]
    assert (everything["steps"], exactly["steps"]) == ("1 to 512 tokens", "exactly 4 tokens")
    places = [{made["name"]: made["places"] for made in g["passes"]} for g in (everything, exactly)]
    assert [found["fuse_rope_kvcache"] for found in places] == [0, 2]

    generated = start(tiny_model, tmp_path / "eager", custom_ops=["none"], **EAGER, **sizes).report["graphs"]
    assert [[piece["how"] for piece in graph["pieces"]] for graph in generated] == [
        [EAGERLY, CALL, EAGERLY, CALL, EAGERLY]
    ] * 2


def test_phases_are_timed(programs: Dump) -> None:
    phases = {phase["name"]: phase["seconds"] for phase in programs.report["phases"]}
    assert {"kv cache", "trace", "rewrite", "lower", "bind"} <= phases.keys()
    assert phases["trace"] > phases["bind"] > 0
    passes = [made["seconds"] for graph in programs.report["graphs"] for made in graph["passes"]]
    rewriting = sum(p["seconds"] for p in programs.report["phases"] if p["name"] == "rewrite")
    assert 0 < sum(passes) < rewriting


PROGRAM, EAGERLY, GENERATED = "a program of native kernels", "eager, op by op", "code of inductor"
CALL = "a call, as it is"
# Settings; what pieces become; calls and launches of attention in two layers; how often Inductor wrote code.
MODES: list[tuple[dict[str, Any], list[str], int, int]] = [
    ({"mode": "DYNAMO_TRACE_ONCE"}, [PROGRAM], 4, 0),
    ({"mode": "DYNAMO_TRACE_ONCE", "custom_ops": ["none"], **EAGER}, [EAGERLY], 2, 0),
    ({"mode": "STOCK_TORCH_COMPILE", **EAGER}, [EAGERLY], 2, 0),
    ({"mode": "STOCK_TORCH_COMPILE"}, [GENERATED], 2, 1),
    ({"custom_ops": ["none"], **EAGER}, [EAGERLY, CALL, EAGERLY, CALL, EAGERLY], 2, 0),
    (
        {"custom_ops": ["all", "-silu_and_mul"]},
        [CALL, CALL, CALL, GENERATED, CALL, CALL, CALL, GENERATED, CALL],
        2,
        1,
    ),
    ({"mode": "NONE", "cudagraph_mode": "FULL", "custom_ops": ["all"]}, [PROGRAM], 2, 0),
]


@pytest.mark.parametrize(("compilation", "how", "attention", "generated"), MODES)
def test_every_mode_has_a_dump(
    compilation: dict[str, Any],
    how: list[str],
    attention: int,
    generated: int,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    dump = start(tiny_model, tmp_path, **compilation)
    (graph,) = dump.report["graphs"]
    assert [piece["how"] for piece in graph["pieces"]] == how
    assert dump.page.sections == SECTIONS
    assert dump.report["error"] is None
    assert (tmp_path / "traced.py").exists() == (compilation.get("mode") != "NONE")
    assert len(re.findall(r"\battention\(", dump.text(f"{graph['folder']}/pieces.txt"))) == attention
    sources = [file.read_text() for file in (tmp_path / graph["folder"]).glob("*-inductor.*")]
    assert len(sources) == dump.page.text.count("generated code") == generated
    assert all("def call(" in source or 'extern "C"' in source for source in sources)


def test_the_page_stands_alone(programs: Dump) -> None:
    assert programs.page.sections == SECTIONS
    assert len(programs.page.ids) == len(set(programs.page.ids))
    assert all(link.removeprefix("#") in programs.page.ids for link in programs.page.links)
    assert programs.page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    assert programs.page.attributes.isdisjoint({"src", "srcset", "onclick", "onload"})
    text = (programs.path / "index.html").read_text()
    assert "http://" not in text and "https://" not in text and "url(" not in text


HOSTILE = '<script>alert("1")</script>\' onload="x" {{ 7 * 7 }} &amp; ]]> \ud800\x00'


def test_everything_in_the_page_is_escaped() -> None:
    graph = GraphRecord("graph-1-2-tokens", HOSTILE, steps=[HOSTILE], pool_bytes=64)
    graph.buffers.append(BufferRecord(0, 64, 0, 0))
    graph.changes.append(ChangeRecord(HOSTILE, 1, 1.0, HOSTILE, [HOSTILE], [HOSTILE]))
    graph.pieces.append(
        PieceRecord(0, "A", False, [HOSTILE], [NodeRecord(HOSTILE, [HOSTILE])], HOSTILE, HOSTILE)
    )
    record = DumpRecord(
        overview=[("model", HOSTILE)],
        settings=[(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        notes=[HOSTILE],
        tuning=HOSTILE,
        choices=[(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        traced=[HOSTILE],
        graphs=[graph],
    )
    record.problem, record.error = HOSTILE, HOSTILE
    text = page(record)
    made = Page(text)
    assert "script" not in made.tags and "onload" not in made.attributes
    assert made.sections == ["error", *SECTIONS]
    assert made.text.count('<script>alert("1")</script>') == text.count("&lt;script&gt;") > 20
    assert "{{ 7 * 7 }}" in made.text and "49" not in made.text


def test_a_hostile_model_name_is_shown_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "<img src=x onerror=alert(1)>\n&lt;b"
    model.symlink_to(tiny_model)
    dump = start(model, tmp_path / "<i>", mode="DYNAMO_TRACE_ONCE", **EAGER)
    assert dump.page.tags.isdisjoint({"img", "i", "b"})
    assert str(model) in dump.page.text


def test_a_dump_takes_the_place_of_another_one_and_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    start(tiny_model, tmp_path, mode="DYNAMO_TRACE_ONCE")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "graph-1-512-tokens" / "mine.png").write_text("mine")
    (tmp_path / "error.txt").write_text("of an earlier start")
    dump = start(tiny_model, tmp_path, mode="NONE", cudagraph_mode="FULL", custom_ops=["all"])
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == {
        "notes.txt",
        "graph-1-512-tokens/mine.png",
        "index.html",
        "report.json",
        "config.json",
        "config.txt",
        "tuning.txt",
        "graph-captured/pieces.txt",
        "graph-captured/memory.txt",
    }
    assert "traced" in dump.page.sections and "Nothing was traced" in dump.page.text


def test_where_nothing_is_compiled_nothing_is_written(tiny_model: Path, tmp_path: Path) -> None:
    with LLM(str(tiny_model), optimization_level=0, compilation_config={"debug_dump_path": f"{tmp_path}/x"}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_the_option_nothing_of_it_is_imported(tiny_model: Path) -> None:
    code = (
        "import sys; from ozone import LLM; LLM(sys.argv[1], optimization_level=1, max_model_len=64);"
        "print(sorted(name for name in sys.modules if name.startswith('ozone.compilation.debug_dump.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['ozone.compilation.debug_dump.directory']"


class BrokenError(Exception):
    """What a test makes go wrong."""


def break_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(self: nn.Module, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_up_proj(x))) * x.sum().item().hex()

    monkeypatch.setattr(activation.GatedMLP, "_rows", rows)


def break_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Iterator[Any]:
        raise BrokenError("no\nsense")

    monkeypatch.setattr(pass_manager, "_run_fusion", broken)


def break_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Tensor:
        raise BrokenError("no\nsense")

    monkeypatch.setitem(OPS, "silu_and_mul", dataclasses.replace(OPS["silu_and_mul"], function=broken))


def break_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    from ozone.compilation import libraries

    def broken(*_: Any) -> Any:
        raise BrokenError("no\nsense")

    monkeypatch.setattr(libraries, "_compiled", broken)


FOLDER = "graph-1-512-tokens"
FAILURES = [
    (break_trace, {}, r"the model cannot be traced, at .*test_debug_dump.py:\d+ in rows: \w+: ", []),
    (
        break_pass,
        {},
        r"rewritten for 1 to 512 tokens, fuse_add_rms_norm: BrokenError: no sense; ",
        ["traced.py"],
    ),
    (
        break_lowering,
        {},
        r"lowered for 1 to 512 tokens, piece 2, ozone.silu_and_mul.default \(silu_and_mul\): BrokenError: ",
        ["traced.py", f"{FOLDER}/pieces.txt", f"{FOLDER}/6-fuse_rope_kvcache.py"],
    ),
    (
        break_generation,
        {"custom_ops": ["all", "-silu_and_mul"]},
        r"inductor cannot compile .* for 1 to 512 tokens, piece 3 of .*aten.silu.*: BrokenError: no sense; ",
        ["traced.py", f"{FOLDER}/pieces.txt"],
    ),
]


@pytest.mark.parametrize(("breaks", "compilation", "message", "files"), FAILURES)
def test_an_error_names_piece_and_op_and_leaves_what_was_made(
    breaks: Any,
    compilation: dict[str, Any],
    message: str,
    files: list[str],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OZONE_DISABLE_COMPILE_CACHE", "1")  # what other tests kept would do without compiling
    breaks(monkeypatch)
    with pytest.raises(CompileError, match=message) as raised:
        start(tiny_model, tmp_path, **compilation)
    assert "\n" not in str(raised.value)
    assert f"{tmp_path}/index.html" in str(raised.value)
    dump = Dump(tmp_path)
    assert dump.page.sections == ["error", *SECTIONS]
    assert dump.report["error"] == f"CompileError: {raised.value}"
    assert "Traceback" in dump.text("error.txt") and "Traceback" in dump.page.text
    assert all(dump.text(name) for name in files)

    with pytest.raises(CompileError, match=r"-cc\.debug_dump_path=DIR writes") as raised:
        LLM(str(tiny_model), optimization_level=1, compilation_config=compilation or None)
    assert "\n" not in str(raised.value)


def test_what_stands_in_for_programs_is_dumped_and_the_reason_noted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(self: nn.Module, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_up_proj(x))).sin()

    monkeypatch.setattr(activation.GatedMLP, "_rows", rows)
    dump = start(tiny_model, tmp_path)
    (graph,) = dump.report["graphs"]
    assert {piece["how"] for piece in graph["pieces"]} == {"eager, op by op", "a call, as it is"}
    assert "aten.sin" in dump.report["notes"][-1] and "aten.sin" in dump.page.text


def test_a_directory_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "x", "a\0b"):
        with pytest.raises(
            ConfigError, match=r"^-cc.debug_dump_path='.*; give a directory that can be written$"
        ):
            DumpDirectory(str(path))


def test_a_full_disk_costs_the_dump_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = DumpDirectory(str(tmp_path))
    (tmp_path / "traced.py").mkdir()  # stands for whatever keeps a file from being written
    with caplog.at_level(logging.WARNING, logger="ozone"):
        for _ in range(2):
            directory.write("traced.py", "text")
    (message,) = caplog.messages
    assert message.startswith("the debug dump is not complete: ")


def test_a_difference_marks_lines() -> None:
    assert difference(["a", "b", "c"], ["a", "d", "c"]) == ["@@ -1,3 +1,3 @@", " a", "-b", "+d", " c"]
    assert difference(["a"], ["a"]) == []
