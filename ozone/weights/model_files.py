"""From a model's name to its files: `open_model` finds them and reads everything but the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.weights.embedded import DEFAULT_MODEL, embedded_model_path
from ozone.weights.gguf_config import gguf_generation_config, read_gguf_config
from ozone.weights.gguf_file import GGUFFile
from ozone.weights.gguf_source import GGUFWeights
from ozone.weights.source import WeightSource


@dataclass(frozen=True)
class ModelFiles:
    """A model that has been found: its files, its config and what its tokenizer is made of.

    Attributes:
        name: as the user named it.
        path: the directory or the ``.gguf`` file.
        format: ``"safetensors"`` or ``"gguf"``.
        config: the model's geometry and arithmetic.
        tokenizer_json: the ``tokenizer.json``, or None where there is none.
        tokenizer_config: ``tokenizer_config.json``, ``{}`` if none.
        gguf_metadata: all GGUF key-values, for rebuilding the tokenizer; None for safetensors.
        generation_config: ``generation_config.json``, ``{}`` if none.
        chat_template: Jinja source, or None.
    """

    name: str
    path: Path
    format: Literal["safetensors", "gguf"]
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
        raise NotImplementedError


def open_model(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    tokenizer: str | None = None,
    config_only: bool = False,
) -> ModelFiles:
    """Finds a model and reads its config."""
    path = embedded_model_path() if model == DEFAULT_MODEL else Path(model)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    return open_gguf(model, path)


def open_gguf(name: str, path: Path) -> ModelFiles:
    """The model in one GGUF file."""
    file = GGUFFile(path)
    template = file.metadata.get("tokenizer.chat_template")
    return ModelFiles(
        name=name,
        path=path,
        format="gguf",
        config=read_gguf_config(file),
        gguf_metadata=file.metadata,
        generation_config=gguf_generation_config(file),
        chat_template=template if isinstance(template, str) else None,
        _gguf=file,
    )
