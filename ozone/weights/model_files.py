"""From a model's name to its files: `open_model` finds them and reads everything but the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ozone.config.args import EngineArgs
from ozone.config.model import ModelConfig
from ozone.config.values import mapping
from ozone.errors import ConfigError
from ozone.weights.embedded import DEFAULT_MODEL
from ozone.weights.files import read_json_if_present, read_json_object
from ozone.weights.gguf_config import gguf_generation_config, read_gguf_config
from ozone.weights.gguf_file import GGUFFile
from ozone.weights.gguf_source import GGUFWeights
from ozone.weights.hf_config import read_hf_config
from ozone.weights.locate import find_model, find_tokenizer
from ozone.weights.safetensors_source import SafetensorsWeights
from ozone.weights.source import WeightSource
from ozone.weights.tokenizer_files import read_named_tokenizer, read_tokenizer_files

__all__ = ["DEFAULT_MODEL", "ModelFiles", "open_model"]


@dataclass(frozen=True)
class ModelFiles:
    """A model that has been found: its files, its config and what its tokenizer is made of.

    Attributes:
        name: as the user named it.
        path: the directory or the ``.gguf`` file.
        config: the model's geometry and arithmetic.
        tokenizer_json: the ``tokenizer.json``, or None where there is none.
        tokenizer_config: ``tokenizer_config.json``, ``{}`` if none.
        gguf_metadata: all GGUF key-values, for rebuilding the tokenizer; None for safetensors.
        generation_config: ``generation_config.json``, ``{}`` if none.
        chat_template: Jinja source, or None.
    """

    name: str
    path: Path
    config: ModelConfig
    tokenizer_json: Path | None = None
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    gguf_metadata: Mapping[str, Any] | None = None
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    _gguf: GGUFFile | None = field(default=None, repr=False, compare=False)

    def open_weights(self) -> WeightSource:
        """The tensors, mapped and checked against their file's bounds, not yet converted."""
        if self._gguf is not None:
            return GGUFWeights(self._gguf, self.config)
        return SafetensorsWeights(self.path)


def open_model(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    tokenizer: str | None = None,
    hf_overrides: Mapping[str, Any] | None = None,
    config_only: bool = False,
) -> ModelFiles:
    """Finds a model, downloading it where its name is a hub id, and reads everything but its weights.

    Args:
        model: a directory in Hugging Face's layout, a ``.gguf`` file, a hub id (``owner/name`` or
            ``owner/name:file.gguf``), or ``smollm2``, the embedded default.
        revision: branch, tag or commit on the hub.
        download_dir: the hub cache's directory in place of huggingface_hub's own.
        tokenizer: a directory, a ``tokenizer.json`` or a hub id to take the tokenizer from instead.
        hf_overrides: values that go before those of the same names in ``config.json``; objects merge.
        config_only: read, and download, no more than the config needs.

    Raises `ModelFileError` where a file is missing, damaged or not supported.
    """
    path = find_model(model, revision=revision, download_dir=download_dir, config_only=config_only)
    if path.is_dir():
        files = _open_directory(model, path, hf_overrides or {}, config_only)
    elif hf_overrides:
        raise ConfigError(f"--hf-overrides changes a config.json, and {path.name} is a GGUF file without one")
    else:
        files = _open_gguf(model, path)
    if tokenizer is None or config_only:
        return files
    tokenizer_revision = revision if tokenizer == model else None
    named = find_tokenizer(tokenizer, revision=tokenizer_revision, download_dir=download_dir)
    override = read_named_tokenizer(named)
    return replace(
        files,
        tokenizer_json=override.tokenizer_json,
        tokenizer_config=override.tokenizer_config,
        chat_template=override.chat_template or files.chat_template,
    )


def open_model_of(args: EngineArgs, *, config_only: bool = False, with_tokenizer: bool = False) -> ModelFiles:
    """`open_model` for what the engine's arguments name; `with_tokenizer` minds ``--tokenizer`` too."""
    overrides = args.hf_overrides
    return open_model(
        args.model or DEFAULT_MODEL,
        revision=args.revision,
        download_dir=args.download_dir,
        tokenizer=args.tokenizer if with_tokenizer else None,
        hf_overrides=None if overrides is None else mapping(overrides, "--hf-overrides"),
        config_only=config_only,
    )


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = _merged(inner, value)
        merged[key] = value
    return merged


def _open_directory(name: str, folder: Path, overrides: Mapping[str, Any], config_only: bool) -> ModelFiles:
    where = str(folder / "config.json") + (" with --hf-overrides" if overrides else "")
    config = read_hf_config(_merged(read_json_object(folder / "config.json"), overrides), where)
    if config_only:
        return ModelFiles(name=name, path=folder, config=config)
    tokenizer = read_tokenizer_files(folder)
    return ModelFiles(
        name=name,
        path=folder,
        config=config,
        tokenizer_json=tokenizer.tokenizer_json,
        tokenizer_config=tokenizer.tokenizer_config,
        generation_config=read_json_if_present(folder / "generation_config.json"),
        chat_template=tokenizer.chat_template,
    )


def _open_gguf(name: str, path: Path) -> ModelFiles:
    file = GGUFFile(path)
    template = file.metadata.get("tokenizer.chat_template")
    return ModelFiles(
        name=name,
        path=path,
        config=read_gguf_config(file),
        gguf_metadata=file.metadata,
        generation_config=gguf_generation_config(file),
        chat_template=template if isinstance(template, str) else None,
        _gguf=file,
    )
