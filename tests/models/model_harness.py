"""Drives a runner with hand-made requests and compares its logits with transformers'."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ozone.compilation.artifacts import ProgramCache
from ozone.config.schema import CacheConfig, CompilationConfig, CompilationMode, SchedulerConfig
from ozone.engine.runner import ScheduledRequest
from ozone.graphs.compiled_runner import CompiledRunner
from ozone.graphs.eager_runner import EagerRunner, kv_block_bytes
from ozone.models import build_model, load_weights
from ozone.ops.choice import OpChoice
from ozone.weights.model_files import open_model

MAX_MODEL_LEN = 128
BLOCK_SIZE = 16
NUM_BLOCKS = 48


@dataclass
class FakeRequest:
    """What a runner reads of a request, and the logits that it got."""

    token_ids: list[int]
    block_ids: list[int]
    request_id: str = ""
    num_prompt_tokens: int = 0
    num_computed_tokens: int = 0
    logits: list[NDArray[np.float32]] = field(default_factory=list)


def open_runner(
    path: Path | str,
    dtype: str = "float32",
    max_model_len: int = MAX_MODEL_LEN,
    op: OpChoice | None = None,
    compilation: CompilationConfig | None = None,
    kept: Path | None = None,
) -> EagerRunner:
    """A runner of the checkpoint; where `compilation` says how, a `CompiledRunner`, whose programs are kept
    under `kept`.
    """
    files = open_model(str(path))
    model = build_model(files.config, dtype=getattr(torch, dtype), max_model_len=max_model_len, op=op)
    load_weights(model, files.open_weights(), num_threads=2)
    make: Any = EagerRunner
    if compilation:
        cache = ProgramCache(kept, {}) if kept else None
        make = partial(CompiledRunner, compilation=compilation, kept=cache)
    runner: EagerRunner = make(
        model,
        files.config,
        dtype=dtype,
        cache=CacheConfig(
            block_size=BLOCK_SIZE,
            kv_cache_memory_bytes=NUM_BLOCKS * kv_block_bytes(files.config, BLOCK_SIZE, dtype),
        ),
        scheduler=SchedulerConfig(max_num_batched_tokens=256, max_num_seqs=8),
        max_model_len=max_model_len,
        num_threads=1,
    )
    return runner


def make_requests(vocab_size: int, lengths: list[int], seed: int = 0) -> list[FakeRequest]:
    """Random token sequences with blocks scattered over the cache."""
    rng = random.Random(seed)
    blocks = rng.sample(range(NUM_BLOCKS), NUM_BLOCKS)
    requests = []
    for length in lengths:
        needed = -(-length // BLOCK_SIZE)
        own, blocks = blocks[:needed], blocks[needed:]
        requests.append(FakeRequest([rng.randrange(vocab_size) for _ in range(length)], own))
    return requests


def step(runner: EagerRunner, work: list[tuple[FakeRequest, int]]) -> None:
    """Compute the next tokens of each request, keeping the logits of all of them."""
    scheduled = [ScheduledRequest(r, r.num_computed_tokens, count, "all") for r, count in work]
    logits = runner.execute(scheduled)
    assert logits.shape == (sum(count for _, count in work), runner.vocab_size)
    assert logits.dtype == np.float32
    row = 0
    for request, count in work:
        request.logits.append(logits[row : row + count].copy())
        request.num_computed_tokens += count
        row += count


def reference_logits(model: PreTrainedModel, requests: list[FakeRequest]) -> NDArray[np.float32]:
    """transformers' logits of the tokens computed so far, one request after another: (rows, vocab_size)."""
    rows = []
    for request in requests:
        count = sum(map(len, request.logits))
        with torch.inference_mode():
            rows.append(model(torch.tensor([request.token_ids[:count]])).logits[0].float().numpy())
    return np.concatenate(rows)


def differences(model: PreTrainedModel, requests: list[FakeRequest]) -> NDArray[np.float32]:
    """Absolute differences from `reference_logits`, in their shape."""
    ours = np.concatenate([rows for request in requests for rows in request.logits])
    return np.abs(ours - reference_logits(model, requests))


def greatest_difference(model: PreTrainedModel, requests: list[FakeRequest]) -> float:
    """The largest of `differences`."""
    return float(differences(model, requests).max())


def compilation(max_num_batched_tokens: int = 256, **changes: Any) -> CompilationConfig:
    """As `-O1` resolves it, without passes."""
    settings: dict[str, Any] = {
        "mode": CompilationMode.VLLM_COMPILE,
        "custom_ops": ("all",),
        "splitting_ops": ("attention",),
        "compile_ranges_endpoints": (max_num_batched_tokens,),
    }
    return CompilationConfig(**{**settings, **changes})
