"""The `ozone` command as a process: help, version, hints, exit codes, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Sequence

import pytest

from ozone import __version__
from ozone.cli import main as cli
from ozone.cli.main import SUBCOMMANDS
from ozone.errors import ModelFileError


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ozone.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


def install(monkeypatch: pytest.MonkeyPatch, name: str, main: object) -> None:
    """Put a made-up module in the place of a subcommand's."""
    module = types.ModuleType("made_up")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, SUBCOMMANDS[name].module, module)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_teaches_levels_and_subcommands(
    capsys: pytest.CaptureFixture[str], words: Sequence[str]
) -> None:
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    for level in range(4):
        assert f"-O{level}" in text
    for name, command in SUBCOMMANDS.items():
        assert f"  {name} " in text
        assert command.help in text
    assert "examples:" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_subcommands() -> None:
    assert set(SUBCOMMANDS) == {
        "serve",
        "generate",
        "chat",
        "config",
        "quantize",
        "compile",
        "cache",
        "bench",
    }


def test_help_and_version_import_nothing_slow() -> None:
    code = (
        "import sys; from ozone.cli.main import main; main(['--help']);"
        "quick = {'logging', 'json', 'pathlib'};"
        "print(sorted(quick & set(sys.modules)), file=sys.stderr); main(['--version']);"
        "slow = {'torch', 'transformers', 'numpy', 'pydantic', 'fastapi', 'rich', 'argparse', 'tokenizers'};"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.split() == ["[]", "[]"]


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version_names_the_native_library(word: str) -> None:
    done = run(word)
    assert done.returncode == 0
    assert done.stdout.startswith(f"ozone {__version__} (native library: ")


def test_version_without_a_native_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ozone.native.build_info", lambda: None)
    cli.main(["--version"])
    assert capsys.readouterr().out == f"ozone {__version__} (native library: not built)\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["serv"], "ozone: error: there is no command serv; did you mean serve?\n"),
        (["chta"], "ozone: error: there is no command chta; did you mean chat?\n"),
        (
            ["xyzzy"],
            "ozone: error: there is no command xyzzy; "
            "there are serve, generate, chat, config, quantize, compile, cache, bench\n",
        ),
        (
            ["-O1"],
            "ozone: error: a command comes first, not -O1: "
            "ozone {serve,generate,chat,config,quantize,compile,cache,bench} [MODEL] [flags]\n",
        ),
    ],
)
def test_an_unknown_command_is_one_line_and_exit_2(words: list[str], line: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_a_subcommand_gets_the_rest_and_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def serve(argv: list[str]) -> int:
        given.append(argv)
        return 7

    install(monkeypatch, "serve", serve)
    assert cli.main(["serve", "model", "-O1"]) == 7
    assert given == [["model", "-O1"]]


def test_a_users_mistake_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(argv: list[str]) -> int:
        raise ModelFileError("no such model: x")

    install(monkeypatch, "serve", serve)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == "ozone: error: no such model: x\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(argv: list[str]) -> int:
        raise ZeroDivisionError

    install(monkeypatch, "serve", serve)
    with pytest.raises(ZeroDivisionError):
        cli.main(["serve"])


def test_an_interrupt_is_quiet_and_exit_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(argv: list[str]) -> int:
        raise KeyboardInterrupt

    install(monkeypatch, "serve", serve)
    assert cli.main(["serve"]) == 130
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_quiet() -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "ozone.cli.main", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    error = program.stderr.read()
    program.stderr.close()
    program.wait(timeout=60)
    assert error == b""
