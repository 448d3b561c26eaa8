"""Models on the hub: the real client against a small server on loopback.

huggingface_hub reads its environment when it is imported, so every start is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, HubServer, Repository, serve_hub
from weights_helpers import LLAMA_CONFIG, STRING, gguf_model, write_hf_model

from ozone.errors import ModelFileError
from ozone.weights.hub import files_to_fetch, parse_hub_id
from ozone.weights.safetensors_source import INDEX

START = """
import json, sys
from ozone.errors import ModelFileError
from ozone.weights.model_files import open_model
answers = []
for arguments in json.loads(sys.argv[1]):
    config_only = arguments.get("config_only", False)
    try:
        model = open_model(**arguments)
        names = [] if config_only else sorted(model.open_weights().names())
        answers.append({
            "format": "gguf" if model.path.is_file() else "safetensors",
            "path": str(model.path), "names": names,
            "layers": model.config.num_layers,
            "theta": model.config.rope.theta, "template": model.chat_template,
            "tokenizer": model.tokenizer_json and str(model.tokenizer_json),
        })
    except ModelFileError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""


BAD_ANSWERS = {
    "html": b"<html>log in first</html>",
    "list": b"[]",
    "number": b'{"id": "owner/number", "sha": "0", "siblings": [{"rfilename": 5}]}',
    "commit": b'{"id": "owner/commit", "sha": "../..", "siblings": [{"rfilename": "config.json"}]}',
    "outside": b'{"id": "owner/outside", "sha": "0", "siblings": '
    b'[{"rfilename": "../../x.gguf"}, {"rfilename": "/x.gguf"}]}',
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder = write_hf_model(tmp_path_factory.mktemp("repository"))
    main = {path.name: path.read_bytes() for path in folder.iterdir()}
    extras = {
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"hello",
        "generation_config.json": b'{"temperature": 1.0}',
        "README.md": b"large",
        "pytorch_model.bin": b"\x80\x04.",
        "consolidated.safetensors": b"the same once more",
        "onnx/config.json": b"{}",
        "tiny.gguf": b"not asked for",
    }
    other = {**main, "config.json": json.dumps(LLAMA_CONFIG | {"rope_theta": 5e5}).encode()}
    repositories = {
        "owner/tiny": Repository({"main": main | extras, "v2": other}),
        "owner/one-gguf": Repository({"main": {"README.md": b"x", "tiny.gguf": gguf_model()}}),
        "owner/ggufs": Repository(
            {
                "main": {
                    f"deep/tiny-{kind}.gguf": gguf_model({"general.name": (STRING, kind)})
                    for kind in ("Q4_0", "Q4_K_M")
                }
            }
        ),
        "owner/pickles": Repository({"main": {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."}}),
        "owner/gated": Repository({"main": main}, gated=True),
        "owner/private": Repository({"main": main}, private=True),
        **{
            f"owner/{name}": Repository({"main": main}, answer=answer) for name, answer in BAD_ANSWERS.items()
        },
    }
    with serve_hub(repositories) as server:
        yield server


def start(
    hub_url: str, home: Path, *models: str | Mapping[str, Any], environment: Mapping[str, str] = {}
) -> list[dict[str, Any]]:
    """Opens models one after the other in a new process; what became of each."""
    calls = [{"model": model} if isinstance(model, str) else model for model in models]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", START, json.dumps(calls)],
        env=kept | {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), **environment},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    assert all(answer.get("error", "").isprintable() for answer in answers)
    return answers


def test_a_model_is_fetched_once_and_then_serves_offline(hub: HubServer, tmp_path: Path) -> None:
    hub.requests.clear()
    online, again = start(hub.url, tmp_path, "owner/tiny", "owner/tiny")
    assert (online["format"], online["layers"], online["template"]) == ("safetensors", 2, "hello")
    assert online["names"] == ["lm_head.weight", "model.norm.weight"]
    assert online["tokenizer"] == f"{online['path']}/tokenizer.json"
    # No README, no pickle, no other format, no folder, and nothing a second time.
    assert hub.downloads() == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert again == online
    hub.requests.clear()
    offline = start(hub.url, tmp_path, "owner/tiny", "owner/one-gguf", environment={"HF_HUB_OFFLINE": "1"})
    assert offline[0] == online
    assert (
        offline[1]["error"] == "owner/one-gguf: is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    )
    assert hub.requests == []
    unreachable = start("http://127.0.0.1:9", tmp_path, "owner/tiny", "owner/one-gguf")
    assert unreachable[0] == online
    assert unreachable[1]["error"].startswith("owner/one-gguf: cannot be fetched from http://127.0.0.1:9: ")


def test_revisions_tokenizers_and_directories_of_choice(hub: HubServer, tmp_path: Path) -> None:
    place = tmp_path / "downloads"
    main, second, missing, tokenizer, config = start(
        hub.url,
        tmp_path,
        {"model": "owner/tiny", "download_dir": str(place)},
        {"model": "owner/tiny", "revision": "v2"},
        {"model": "owner/tiny", "revision": "v3"},
        {"model": "owner/one-gguf", "tokenizer": "owner/tiny", "download_dir": str(place)},
        {"model": "owner/tiny", "config_only": True, "download_dir": str(tmp_path / "config-only")},
    )
    assert Path(main["path"]).is_relative_to(place)
    assert (main["theta"], second["theta"]) == (1e4, 5e5)
    assert missing["error"] == "owner/tiny: has no revision v3"
    assert tokenizer["tokenizer"] == main["tokenizer"]
    assert (tokenizer["format"], tokenizer["template"]) == ("gguf", "hello")
    assert [path.name for path in Path(config["path"]).iterdir()] == ["config.json"]
    fetched = {"model": "owner/tiny", "download_dir": str(tmp_path / "config-only")}
    offline, incomplete = start(
        hub.url, tmp_path, fetched | {"config_only": True}, fetched, environment={"HF_HUB_OFFLINE": "1"}
    )
    assert offline == config
    assert incomplete["error"].startswith("owner/tiny: is not in the cache")


def test_gguf_files_of_a_repository(hub: HubServer, tmp_path: Path) -> None:
    hub.requests.clear()
    only, several, named, by_kind, unknown = start(
        hub.url,
        tmp_path,
        "owner/one-gguf",
        "owner/ggufs",
        "owner/ggufs:deep/tiny-Q4_0.gguf",
        "owner/ggufs:q4_k_m",
        "owner/ggufs:Q8_0",
    )
    assert only["format"] == "gguf"
    assert "model.norm.weight" in only["names"]
    assert several["error"] == (
        "owner/ggufs: name one of its 2 GGUF files as owner/ggufs:FILE"
        " (deep/tiny-Q4_0.gguf, deep/tiny-Q4_K_M.gguf)"
    )
    assert named["path"].endswith("/deep/tiny-Q4_0.gguf")
    assert by_kind["path"].endswith("/deep/tiny-Q4_K_M.gguf")
    assert unknown["error"].startswith("owner/ggufs: no file Q8_0 (GGUF files there: deep/tiny-Q4_0.gguf, ")
    assert hub.downloads() == ["tiny-Q4_0.gguf", "tiny-Q4_K_M.gguf", "tiny.gguf"]


def test_what_the_hub_refuses_is_explained(hub: HubServer, tmp_path: Path) -> None:
    missing, gated, private, pickles = start(
        hub.url, tmp_path, "owner/missing", "owner/gated", "owner/private", "owner/pickles"
    )
    absent = f"is neither a local path nor a model at {hub.url} (where it is private: set HF_TOKEN)"
    assert missing["error"] == f"owner/missing: {absent}"
    assert private["error"] == f"owner/private: {absent}"
    assert gated["error"] == (
        f"owner/gated: is gated: accept its terms at {hub.url}/owner/gated and set HF_TOKEN"
    )
    assert pickles["error"].startswith("owner/pickles: pickle files can run code")


def test_an_answer_that_is_no_hub_s_is_one_clear_line(hub: HubServer, tmp_path: Path) -> None:
    *malformed, outside = start(hub.url, tmp_path, *(f"owner/{name}" for name in BAD_ANSWERS))
    for name, answer in zip(BAD_ANSWERS, malformed, strict=False):
        assert answer["error"] == f"owner/{name}: cannot be fetched: {hub.url} did not answer as a hub does"
    assert outside["error"] == "owner/outside: the repository has neither a config.json nor GGUF files"
    assert not any("x.gguf" in path for _, path, _ in hub.requests)


def test_the_token_opens_private_and_gated_models(hub: HubServer, tmp_path: Path) -> None:
    hub.requests.clear()
    private, gated = start(hub.url, tmp_path, "owner/private", "owner/gated", environment={"HF_TOKEN": TOKEN})
    assert private["format"] == gated["format"] == "safetensors"
    assert {authorization for _, _, authorization in hub.requests} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("owner/name", ("owner/name", None)),
        ("gpt2", ("gpt2", None)),
        ("o/n-1.5_b:deep/x-Q4_0.gguf", ("o/n-1.5_b", "deep/x-Q4_0.gguf")),
        ("a/b/c", None),
        ("a b", None),
        ("owner/", None),
        ("owner/.hidden", None),
        ("owner/name:", None),
        ("owner/name:/etc/passwd", None),
        ("owner/a..b", None),
        ("x" * 97, None),
    ],
)
def test_hub_ids(name: str, parsed: tuple[str, str | None] | None) -> None:
    assert parse_hub_id(name) == parsed


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("model.safetensors extra.safetensors a/b.safetensors", "model.safetensors"),
        (f"{INDEX} m-1.safetensors m-2.safetensors", f"m-1.safetensors m-2.safetensors {INDEX}"),
        ("x.safetensors consolidated.safetensors README.md t.jinja", "t.jinja x.safetensors"),
        ("x.safetensors y.gguf", "x.safetensors"),
    ],
)
def test_only_needed_files_are_fetched(names: str, wanted: str) -> None:
    fetched = files_to_fetch("o/n", ["config.json", *names.split()], None, config_only=False)
    assert sorted(fetched) == ["config.json", *wanted.split()]


def test_a_gguf_file_is_second_choice() -> None:
    assert files_to_fetch("o/n", ["config.json", "y.gguf"], None, config_only=False) == ["y.gguf"]


def test_a_repository_of_neither_kind_is_refused() -> None:
    for names in (["README.md"], ["README.md", "config.json"]):
        with pytest.raises(ModelFileError, match="neither"):
            files_to_fetch("o/n", names, None, config_only=False)
