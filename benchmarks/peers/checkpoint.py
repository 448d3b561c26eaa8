"""transformers' reading of a model, from a GGUF file or a folder."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers


def load(model: Path) -> transformers.PreTrainedModel:
    """The model in bfloat16."""
    if model.is_dir():
        return transformers.AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.bfloat16)
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(model.parent), gguf_file=model.name, dtype=torch.bfloat16
    )


def folder_of(model: Path, kept: Path) -> Path:
    """A folder that holds the model in bfloat16: itself, or one that is made in `kept` and stays there."""
    if model.is_dir():
        return model
    folder = kept / model.stem
    if not (folder / "config.json").exists():
        plain = load(model)
        # Its weights are bfloat16 by now; it only remembers that they were not, and would not be saved.
        plain.hf_quantizer = None
        del plain.config.quantization_config
        plain.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(str(model.parent), gguf_file=model.name).save_pretrained(
            folder
        )
    return folder
