"""What compiling takes, made of a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from ozone.compilation.lowering import Capacity
from ozone.compilation.step import Step, StepInputs
from ozone.config.schema import CompilationConfig, CompilationMode
from ozone.graphs.eager_runner import allocate_kv_caches
from ozone.models import build_model, load_weights
from ozone.ops.choice import OpChoice
from ozone.weights.model_files import open_model


class Case(NamedTuple):
    """What `compile_step` takes."""

    step: Step
    inputs: StepInputs
    config: CompilationConfig
    capacity: Capacity


def make_case(
    folder: Path,
    *,
    dtype: str = "float32",
    tokens: int = 32,
    requests: int = 4,
    max_model_len: int = 64,
    block_size: int = 16,
    num_blocks: int = 8,
    cache_dtype: str = "float32",
    custom_ops: tuple[str, ...] = ("all",),
    **settings: object,
) -> Case:
    """The model in `folder`, loaded, and settings as `-O1` resolves them."""
    files = open_model(str(folder))
    op = OpChoice(custom_ops, compiled=True)
    model = build_model(files.config, dtype=getattr(torch, dtype), max_model_len=max_model_len, op=op)
    load_weights(model, files.open_weights(), num_threads=1)
    step = Step(model, allocate_kv_caches(files.config, block_size, num_blocks, cache_dtype))
    inputs = StepInputs(
        token_ids=torch.zeros(tokens, dtype=torch.int32),
        positions=torch.zeros(tokens, dtype=torch.int32),
        slot_mapping=torch.zeros(tokens, dtype=torch.int64),
        block_tables=torch.zeros((requests, max_model_len // block_size), dtype=torch.int32),
        query_start_loc=torch.zeros(requests + 1, dtype=torch.int32),
        seq_lens=torch.zeros(requests, dtype=torch.int32),
    )
    given: dict[str, object] = {
        "mode": CompilationMode.VLLM_COMPILE,
        "custom_ops": custom_ops,
        "splitting_ops": ("attention",),
        "compile_ranges_endpoints": (tokens,),
        **settings,
    }
    return Case(step, inputs, CompilationConfig(**given), Capacity(tokens, requests))  # type: ignore[arg-type]
