"""Flags in a YAML file: what they say, what wins over them, and what a hostile file comes to."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments
from ozone.config.schema import CompilationMode
from ozone.server.flags import add_server_arguments, server_settings

Write = Callable[[str], str]
Parse = Callable[..., EngineArgs]

CC = "compilation_config."


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A config file with some text."""

    def run(text: str) -> str:
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return str(file)

    return run


def values(args: EngineArgs) -> dict[str, object]:
    return {key: given.value for key, given in args.user_settings()[0].items()}


def serve(*words: str) -> argparse.Namespace:
    parser = ArgumentParser(prog="ozone serve")
    add_engine_arguments(parser, model="both")
    add_server_arguments(parser)
    return parser.parse_args(list(words))


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("dtype: half", {"model.dtype": "float16"}),
        ("max-model-len: 4k", {"model.max_model_len": 4000}),
        ("max-model-len: auto\nrevision: None\nquantization: none", {}),
        ("max_model_len: 4096\nseed: 0x10", {"model.max_model_len": 4096, "model.seed": 16}),
        ("enable-prefix-caching: false", {"cache.enable_prefix_caching": False}),
        ("enable-prefix-caching: off", {"cache.enable_prefix_caching": False}),
        ("disable-prefix-caching: true", {"cache.enable_prefix_caching": False}),
        ("no-enable-prefix-caching: true", {"cache.enable_prefix_caching": False}),
        ("enable-prefix-caching: 'yes'", {"cache.enable_prefix_caching": True}),
        ("enable-flashinfer-autotune: false", {"kernel_config.enable_flashinfer_autotune": False}),
        ("served-model-name: [a, b-c]", {"model.served_model_name": ("a", "b-c")}),
        ("served-model-name:\n- a", {"model.served_model_name": ("a",)}),
        ("optimization-level: 1", {"optimization_level": 1}),
        ("kv-cache-memory: 1G", {"cache.kv_cache_memory_bytes": 1024**3}),
        ("cudagraph-capture-sizes: [1, 2]", {CC + "cudagraph_capture_sizes": (1, 2)}),
        ("compilation-config: {mode: NONE}", {CC + "mode": CompilationMode.NONE}),
        ("compilation_config:\n  mode: 0", {CC + "mode": CompilationMode.NONE}),
        ("compilation-config: '{\"mode\": 0}'", {CC + "mode": CompilationMode.NONE}),
        ("compilation-config.mode: NONE", {CC + "mode": CompilationMode.NONE}),
        ("compilation-config.compile_sizes: [1, 4]", {CC + "compile_sizes": (1, 4)}),
        (
            "compilation-config:\n  pass_config:\n    fuse_norm_quant: false",
            {CC + "pass_config.fuse_norm_quant": False},
        ),
        ("model: some/model", {"model.model": "some/model"}),
        ("a: &sizes [1, 2]\ncudagraph-capture-sizes: *sizes", None),
        ("dtype: null\nserved-model-name: []\n", {}),
        ("data-parallel-size: 1\nenable-lora: false\ntrust-remote-code: false", {}),
        ("# nothing", {}),
    ],
)
def test_what_a_file_says(parse: Parse, write: Write, text: str, settings: dict[str, object] | None) -> None:
    if settings is None:
        text = text.removeprefix("a: &sizes [1, 2]\n").replace("*sizes", "&sizes [1, 2]")
        settings = {CC + "cudagraph_capture_sizes": (1, 2)}
    assert values(parse("--config", write(text))) == settings
    assert values(parse(f"--config={write(text)}")) == settings


def test_the_command_line_wins(parse: Parse, write: Write) -> None:
    file = write("model: in/file\ndtype: half\nenable-prefix-caching: true\ncompilation-config: {mode: 3}\n")
    for words in (
        ["typed", "--config", file],
        ["--config", file, "typed"],
        ["--model", "typed", "--config", file],
    ):
        settings = values(parse(*words, "--disable-prefix-caching", "--dtype=float32", "-cc.backend=eager"))
        assert settings == {
            "model.model": "typed",
            "model.dtype": "float32",
            "cache.enable_prefix_caching": False,
            CC + "mode": CompilationMode.VLLM_COMPILE,
            CC + "backend": "eager",
        }
    assert values(parse("--config", file, "-cc.mode=0"))[CC + "mode"] == CompilationMode.NONE


def test_flags_of_the_server(write: Write) -> None:
    file = write("port: 9000\napi-key: [a, b]\nallowed-origins: ['*']\ndisable-fastapi-docs: true\nhost: x\n")
    settings = server_settings(serve("--config", file, "--host", "y", "--api-key", "c"))
    assert (settings.port, settings.host, settings.allowed_origins) == (9000, "y", ("*",))
    assert settings.api_keys == ("c",)
    assert not settings.docs


def test_what_vllm_has_in_a_file_gives_one_warning(parse: Parse, write: Write) -> None:
    file = write("gpu-memory-utilization: 0.9\nlimit-mm-per-prompt: {image: 2}\nignore-patterns: [a, b]\n")
    _, notices = parse("--config", file, "--gpu-memory-utilization", "0.8").user_settings()
    assert [notice.split()[0] for notice in notices] == [
        "--gpu-memory-utilization",
        "--limit-mm-per-prompt",
        "--ignore-patterns",
    ]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcd", "bcde", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nmodell: x", "run.yaml line 2: there is no flag --modell; did you mean --model?"),
        ("dtype: float17", "run.yaml line 1: --dtype: float17 is not one of"),
        ("max-num-seqs: true", "run.yaml line 1: --max-num-seqs: true is not an integer"),
        ("enable-prefix-caching: perhaps", "--enable-prefix-caching: perhaps is not a boolean"),
        ("compilation-config: {mod: 1}", "line 1: compilation-config: -cc.mod: there is no such key"),
        ("enable-lora: true", "line 1: vLLM has --enable-lora; Ozone does not (yet)"),
        ("enable-lora: [1, 2]", "line 1: --enable-lora: [1, 2] is not a boolean"),
        ("swap-space: x", "line 1: --swap-space: x is not a number"),
        ("a: [", "line 1: expected the node content"),
        ("a\nb: c", "line 2: mapping values are not allowed here"),
        ("- 1", "a config file has lines like `max-model-len: 4096`"),
        ("seed: 1\nseed: 2", "line 2: seed is also in line 1"),
        ("1: 2", "1 is not the name of a flag"),
        ("a b: 2", "line 1: 'a b' is not the name of a flag"),
        ("seed: 2001-99-99", "a value is none: month must be in 1..12"),
        ("seed: !!python/object/apply:os.abort []", "could not determine a constructor"),
        ("seed: !!binary YQ==", "seed: a value of this kind is not read"),
        ("seed: .nan", "--seed: NaN is not an integer"),
        ("help: true", "help: it belongs on a command line"),
        ("config: x", "config: it belongs on a command line"),
        ("a: &a [*a]", "at most 10000 values or 32 levels"),
        (BOMB, "at most 10000 values or 32 levels"),
        ("a: " + "[" * 40 + "]" * 40, "at most 10000 values or 32 levels"),
        ("[" * 10_000, "nested too deeply"),
        ("a: " + "x" * 300_000, "larger than 262144 bytes"),
        ("\x01", "special characters are not allowed"),
    ],
)
def test_a_wrong_file_is_one_line(
    parse: Parse, write: Write, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        parse("--config", write(text))
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config"], "--config: a value is missing"),
        (["--config="], "--config: a value is missing"),
        (["--config", "/no/such"], "--config /no/such: No such file"),
        (["--config", "/"], "--config /: Is a directory"),
        (["--config", "/dev/zero"], "larger than 262144 bytes"),
        (["--config", sys.executable], "--config"),
        (["--config", "a", "--config=b"], "--config is given 2 times"),
    ],
)
def test_a_file_that_cannot_be_read(
    parse: Parse, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        parse(*words)
    assert message in capsys.readouterr().err


def test_neither_yaml_nor_vllms_tables_are_imported_without_need() -> None:
    code = (
        "import sys; from ozone.config.command_line import *; p = ArgumentParser(prog='x');"
        "add_engine_arguments(p, model='both'); engine_args(p.parse_args(['-O1', '--no-enforce-eager']));"
        "print([n for n in ('yaml', 'difflib', 'ozone.config.vllm_options', 'ozone.config.upstream')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
