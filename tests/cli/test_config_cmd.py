"""`ozone config`: the table, its JSON, its mistakes, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ozone.cli import config_cmd
from ozone.config import args
from ozone.config.keys import KEYS
from ozone.config.report import table
from ozone.errors import ConfigError, ModelFileError
from ozone.native import library
from ozone.weights import embedded

SLOW = ("torch", "transformers", "pydantic", "fastapi", "rich", "tokenizers", "huggingface_hub", "jinja2")


@pytest.fixture
def llama(tmp_path: Path) -> str:
    """A directory with nothing but the config of a small Llama model."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float16",
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert config_cmd.main([*words, "--json"]) == 0
    loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return loaded


def test_json_has_every_setting_with_value_origin_and_reason(
    capsys: pytest.CaptureFixture[str], llama: str
) -> None:
    settings = as_json(capsys, llama, "-O0", "-cc.cudagraph_mode=FULL")
    assert list(settings) == list(KEYS)
    assert settings["compilation_config.cudagraph_mode"] == {
        "value": "FULL",
        "origin": "user",
        "reason": "set by -cc.cudagraph_mode=FULL",
    }
    assert settings["compilation_config.custom_ops"]["value"] == ["all"]
    assert (
        settings["compilation_config.custom_ops"]["origin"] == "required by compilation_config.cudagraph_mode"
    )
    assert settings["compilation_config.mode"]["value"] == "NONE"
    assert settings["optimization_level"]["value"] == 0


def test_the_model_decides_its_own(capsys: pytest.CaptureFixture[str], llama: str) -> None:
    settings = as_json(capsys, llama)
    assert settings["model.max_model_len"]["value"] == 512
    assert settings["model.dtype"] == {
        "value": "float16",
        "origin": "model",
        "reason": "the checkpoint's own type",
    }
    assert settings["model.model"]["value"] == llama


def test_the_table_has_a_line_for_every_setting(capsys: pytest.CaptureFixture[str], llama: str) -> None:
    assert config_cmd.main([llama, "-O2", "-cc.mode=NONE"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["setting", "value", "set", "by", "why"]
    by_flag = {line.split("  ")[0]: line for line in lines}
    assert {key.flag for key in KEYS.values()} <= set(by_flag)
    assert "FULL_DECODE_ONLY" in by_flag["-cc.cudagraph_mode"]
    assert "required by -cc.mode" in by_flag["-cc.cudagraph_mode"]
    assert "user" in by_flag["-cc.mode"]
    assert sum(line.startswith("note: ") for line in lines) == 2


def test_columns_are_aligned_and_wrap_to_a_narrow_terminal() -> None:
    rows = [("setting", "value", "set by", "why"), ("a", "[none,+rms_norm]", "user", "some words " * 20)]
    lines = table(rows, 60)
    assert max(map(len, lines)) <= 60
    start = lines[0].index("why")
    assert all(not line[:start].strip() for line in lines[2:])
    assert table(rows, 10_000)[1].endswith("some words")


def test_verbose_shows_the_machine(capsys: pytest.CaptureFixture[str], llama: str) -> None:
    config_cmd.main([llama])
    assert "platform.isa" not in capsys.readouterr().out
    config_cmd.main([llama, "-v"])
    text = capsys.readouterr().out
    for fact in ("platform.isa", "platform.num_cores", "platform.cpu_model", "platform.native"):
        assert fact in text


def test_without_a_model_the_default_ones_settings_are_shown_or_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ModelFileError("the default model is not installed")

    monkeypatch.setattr("ozone.weights.model_files.open_model", missing)
    settings = as_json(capsys)
    assert settings["model.model"]["value"] == "smollm2"
    assert settings["model.dtype"]["origin"] == "default"
    with pytest.raises(ModelFileError):
        config_cmd.main(["some-model"])


def test_settings_and_weights_mean_the_same_default_model() -> None:
    assert args.DEFAULT_MODEL == embedded.DEFAULT_MODEL


@pytest.fixture
def _library_opened_anew() -> Iterator[None]:
    """The library reads ``OZONE_ISA`` when it is first asked for."""
    native = library()
    before = None if native is None else native.isa()
    library.cache_clear()
    yield
    library.cache_clear()
    if native is not None:
        native.set_isa(before)


@pytest.mark.usefixtures("_library_opened_anew")
def test_the_environment_forces_an_instruction_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], llama: str
) -> None:
    monkeypatch.setenv("OZONE_ISA", "portable")
    config_cmd.main([llama, "-v"])
    assert "portable" in capsys.readouterr().out
    library.cache_clear()
    monkeypatch.setenv("OZONE_ISA", "z80")
    with pytest.raises(ConfigError, match="OZONE_ISA=z80"):
        config_cmd.main([llama])


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_no_level_needs_a_note(capsys: pytest.CaptureFixture[str], llama: str, level: int) -> None:
    config_cmd.main([llama, f"-O{level}"])
    assert "note: " not in capsys.readouterr().out
    assert list(as_json(capsys, llama, f"-O{level}")) == list(KEYS)


def test_several_processes_resolve_in_full_and_are_said_to_be_missing(
    capsys: pytest.CaptureFixture[str], llama: str
) -> None:
    settings = as_json(capsys, llama, "-tp", "2")
    assert settings["parallel.tensor_parallel_size"]["value"] == 2
    assert settings["compilation_config.pass_config.fuse_allreduce_rms"]["value"] is True
    config_cmd.main([llama, "-tp", "2", "-O0"])
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == ["note: --tensor-parallel-size 2: tensor parallelism is not built yet; only 1 works"]


def test_a_command_line_of_the_server_can_be_pasted(capsys: pytest.CaptureFixture[str], llama: str) -> None:
    serve = ["--host=0.0.0.0", "--port", "9000", "--api-key", "secret", "--disable-log-requests"]
    serve += ["--enable-log-requests", "--disable-uvicorn-access-log", "--uvicorn-log-level", "info"]
    assert as_json(capsys, llama, "-O1", *serve) == as_json(capsys, llama, "-O1")


def test_help_does_not_show_the_servers_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config_cmd.main(["--help"])
    text = capsys.readouterr().out
    assert "--max-model-len" in text
    assert "--port" not in text
    assert "HTTP server" not in text


def test_no_slow_import(llama: str) -> None:
    code = (
        "import sys; from ozone.cli.main import main;"
        f"main(['config', {llama!r}, '--json']); main(['config', {llama!r}]);"
        f"print(sorted(set({SLOW!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-cc.mod=3"], "-cc.mod: there is no such key; did you mean mode?"),
        (["--enable-lora"], "vLLM has --enable-lora; Ozone does not (yet): adapters are not built"),
        (["-cc.mode=NONE", "-cc.cudagraph_mode=PIECEWISE"], "contradict each other"),
        (["--port=70000"], "--port: 70000 is not allowed; it must be at most 65535"),
        (["--max-model-len=1000"], "max_position is 512"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_2(llama: str, words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ozone.cli.main", "config", llama, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ozone: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
