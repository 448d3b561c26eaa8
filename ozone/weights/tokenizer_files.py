"""The small files beside the weights: tokenizer, its config, and the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ozone.errors import ModelFileError
from ozone.weights.files import read_json_if_present, read_text

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class TokenizerFiles:
    """What a directory holds of a tokenizer.

    Attributes:
        tokenizer_json: the ``tokenizer.json``, or None.
        tokenizer_config: ``tokenizer_config.json``, ``{}`` if none.
        chat_template: Jinja source, or None.
    """

    tokenizer_json: Path | None = None
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Whatever of a tokenizer is in a directory."""
    tokenizer = folder / TOKENIZER
    config = read_json_if_present(folder / "tokenizer_config.json")
    return TokenizerFiles(tokenizer if tokenizer.is_file() else None, config, _chat_template(folder, config))


def read_named_tokenizer(path: Path) -> TokenizerFiles:
    """The tokenizer that a user has named: a directory with a ``tokenizer.json``, or the file itself."""
    if path.is_dir():
        files = read_tokenizer_files(path)
        if files.tokenizer_json is None:
            raise ModelFileError(f"{path}: has no {TOKENIZER}")
        return files
    if path.suffix != ".json":
        raise ModelFileError(f"{path}: a tokenizer is a directory with a {TOKENIZER}, or that file")
    beside = read_tokenizer_files(path.parent) if path.name == TOKENIZER else TokenizerFiles()
    return TokenizerFiles(path, beside.tokenizer_config, beside.chat_template)


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """``chat_template.jinja``, or what the tokenizer's config holds: one template, or several by name."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    template = tokenizer_config.get("chat_template")
    if template is None:
        template = read_json_if_present(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict)]
        pairs = [(entry.get("name"), entry.get("template")) for entry in entries]
        named = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
        template = named.get("default") or (next(iter(named.values())) if len(named) == 1 else None)
    if template is not None and not isinstance(template, str):
        raise ModelFileError(f"{folder}: the chat template is neither a text nor a list of named texts")
    return template
