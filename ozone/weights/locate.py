"""From the name that a user gives to a path on this machine, downloading where the name is a hub id."""

from __future__ import annotations

import difflib
from pathlib import Path

from ozone.errors import ModelFileError, shown
from ozone.weights.embedded import DEFAULT_MODEL, embedded_model_path
from ozone.weights.files import read_json_object
from ozone.weights.gguf_file import MAGIC, is_projector
from ozone.weights.safetensors_source import PICKLED, pickle_refused, refuse_pickles

_PATH_STARTS = ("/", "./", "../", "~", ".\\", "..\\")
_FILE_ENDINGS = (".gguf", ".safetensors", *PICKLED)


def find_model(name: str, *, revision: str | None, download_dir: str | None, config_only: bool) -> Path:
    """The directory or the ``.gguf`` file of a model: the embedded one, a local one or one on the hub."""
    if name == DEFAULT_MODEL:
        return embedded_model_path()
    local = _local_path(name)
    if local is None:
        from ozone.weights.hub import download_model

        _refuse_slip(name)
        repo, file = _hub_id(name, what="model")
        local = download_model(
            repo, file, revision=revision, download_dir=download_dir, config_only=config_only
        )
    if local.is_dir():
        return _weights_in(local, config_only=config_only)
    return _checked_file(local)


def find_tokenizer(name: str, *, revision: str | None, download_dir: str | None) -> Path:
    """The directory or the ``tokenizer.json`` of a tokenizer that is named apart from its model."""
    local = _local_path(name)
    if local is not None:
        return local
    from ozone.weights.hub import download_tokenizer

    repo, _ = _hub_id(name, what="tokenizer")
    return download_tokenizer(repo, revision=revision, download_dir=download_dir)


def _local_path(name: str) -> Path | None:
    """An existing path, or None for what may be a hub id."""
    if not name.strip() or "\0" in name:
        raise ModelFileError(f"{shown(name)} is not the name of a model")
    path = Path(name).expanduser()
    try:
        if path.exists():
            return path
    except OSError as error:
        raise ModelFileError(f"{shown(name)}: {error.strerror or error}") from None
    is_hub_file = ":" in name and not name.startswith(_PATH_STARTS)
    looks_like_path = name.startswith(_PATH_STARTS) or name.count("/") > 1 or name.endswith(_FILE_ENDINGS)
    if looks_like_path and not is_hub_file:
        raise ModelFileError(f"{name}: no such file or directory")
    return None


def _refuse_slip(name: str) -> None:
    """Raise for what can only be meant as the embedded model, before the hub is asked for it."""
    if "/" not in name and difflib.get_close_matches(name.lower(), [DEFAULT_MODEL], cutoff=0.8):
        raise ModelFileError(f"there is no model {shown(name)}; did you mean {DEFAULT_MODEL}?")


def _hub_id(name: str, what: str) -> tuple[str, str | None]:
    from ozone.weights.hub import parse_hub_id

    parsed = parse_hub_id(name)
    if parsed is None:
        raise ModelFileError(
            f"{shown(name)} is no {what}: name a local directory, a .gguf file,"
            f" a hub id (owner/name or owner/name:file.gguf) or {DEFAULT_MODEL}"
        )
    return parsed


def _weights_in(folder: Path, *, config_only: bool) -> Path:
    """The directory itself where it is Hugging Face's layout, or the one GGUF file in it."""
    has_config = (folder / "config.json").is_file()
    if has_config and (config_only or any(folder.glob("*.safetensors"))):
        return folder
    files = [path for path in sorted(folder.glob("*.gguf")) if not is_projector(path.name)]
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelFileError(f"{folder}: holds {len(files)} GGUF files; name one of them")
    refuse_pickles(folder)
    if has_config:
        read_json_object(folder / "config.json")  # where that is damaged too, it comes first
    missing = "safetensors files" if has_config else "config.json"
    raise ModelFileError(f"{folder}: not a model directory (no {missing})")


def _checked_file(path: Path) -> Path:
    if path.suffix in PICKLED:
        raise pickle_refused(path)
    if path.suffix == ".safetensors":
        raise ModelFileError(f"{path}: name the directory that holds it and its config.json")
    if not path.is_file():
        raise ModelFileError(f"{path}: not a regular file")
    with path.open("rb") as file:
        if path.suffix != ".gguf" and file.read(4) != MAGIC:
            raise ModelFileError(f"{path}: a model is a directory or a .gguf file")
    return path
