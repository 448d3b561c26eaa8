"""`ozone bench`: the list of benchmarks, and the flags that all of them share."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from ozone.bench.reporting import Reporter, milliseconds, table
from ozone.cli.bench import BENCHMARKS, help_text, main
from ozone.errors import OzoneError


def test_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == help_text()
    for name, bench in BENCHMARKS.items():
        assert f"  {name:<12}{bench.help}\n" in help_text()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_explains_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"ozone bench {name}" in text
    assert "--json" in text


@pytest.mark.parametrize(
    "name", [name for name in BENCHMARKS if name not in ("machine", "kernels", "threads")]
)
def test_a_benchmark_of_a_model_takes_the_engines_flags(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    for flag in ("--optimization-level", "--dtype", "--compilation-config", "--max-num-seqs"):
        assert flag in text


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_unknown_flag_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--jsn"])
    assert caught.value.code == 2
    assert "no flag --jsn; did you mean --json?" in capsys.readouterr().err


def test_an_unknown_benchmark_gets_a_hint() -> None:
    with pytest.raises(OzoneError, match="no benchmark latncy; did you mean latency"):
        main(["latncy"])
    with pytest.raises(OzoneError, match="a benchmark comes first, not -O2"):
        main(["-O2", "latency"])


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, ozone.cli.bench as b; b.main(['--help']); print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_every_benchmark_starts_without_torch() -> None:
    modules = [bench.module for bench in BENCHMARKS.values()]
    code = f"import sys\nfor m in {modules}: __import__(m)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert all(callable(importlib.import_module(module).main) for module in modules)


def test_a_table_stands_in_columns() -> None:
    text = table("title", [("a", "10.0 s", "remark"), ("longer", "1 s", "")])
    assert text == "title\n  a       10.0 s  remark\n  longer     1 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00123, "1.23 ms"), (0.0456, "45.60 ms"), (0.25, "250 ms"), (12.3, "12.3 s")]
)
def test_times_have_three_digits_or_so(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_a_table_goes_to_stderr_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(json=True).finish("title", [], {"a": 1})
    streams = capsys.readouterr()
    assert (streams.out, streams.err) == ('{"a": 1}\n', "title\n")
    Reporter(json=False).finish("title", [], {"a": 1})
    assert capsys.readouterr().out == "title\n"
