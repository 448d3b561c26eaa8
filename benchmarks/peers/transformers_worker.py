"""Hugging Face transformers in bfloat16, eager, with a dynamic cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from checkpoint import load
from worker import serve

torch.set_num_threads(int(sys.argv[2]))
model = load(Path(sys.argv[1]))
model.eval()


@torch.inference_mode()
def generate(token_ids: list[int], output_tokens: int) -> Iterator[object]:
    tokens, cache = torch.tensor([token_ids]), transformers.DynamicCache()
    for _ in range(output_tokens):
        logits = model(tokens, past_key_values=cache, logits_to_keep=1).logits
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        yield int(tokens)


serve(transformers.__version__, generate)
