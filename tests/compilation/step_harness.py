"""Steps of models, batches for them, and what the model itself makes of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ozone.compilation.compiled import CompiledStep
from ozone.compilation.compiler import RangeProgram
from ozone.compilation.step import Step, StepInputs
from ozone.config.schema import CompilationConfig, CompilationMode
from ozone.graphs.eager_runner import allocate_kv_caches
from ozone.models import build_model, load_weights
from ozone.ops.choice import OpChoice
from ozone.weights.model_files import open_model

MAX_TOKENS, MAX_REQUESTS, NUM_BLOCKS, BLOCK_SIZE = 64, 8, 32, 16


def make_step(path: Path | str, dtype: str = "bfloat16", custom_ops: tuple[str, ...] = ("all",)) -> Step:
    files = open_model(str(path))
    op = OpChoice(custom_ops, compiled=True)
    model = build_model(files.config, dtype=getattr(torch, dtype), max_model_len=512, op=op)
    load_weights(model, files.open_weights(), num_threads=2)
    return Step(model, allocate_kv_caches(files.config, BLOCK_SIZE, NUM_BLOCKS, dtype))


def make_inputs() -> StepInputs:
    def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    return StepInputs(
        token_ids=zeros(MAX_TOKENS),
        positions=zeros(MAX_TOKENS),
        slot_mapping=zeros(MAX_TOKENS, dtype=torch.int64),
        block_tables=zeros(MAX_REQUESTS, 4),
        query_start_loc=zeros(MAX_REQUESTS + 1),
        seq_lens=zeros(MAX_REQUESTS),
    )


def settings(**changes: Any) -> CompilationConfig:
    return CompilationConfig(
        **{
            "mode": CompilationMode.VLLM_COMPILE,
            "custom_ops": ("all",),
            "splitting_ops": ("attention",),
            "compile_ranges_endpoints": (MAX_TOKENS,),
            **changes,
        }
    )


def fill(inputs: StepInputs, lengths: list[int]) -> None:
    """New requests of so many tokens each, in blocks of their own."""
    blocks = random.Random(0).sample(range(NUM_BLOCKS), MAX_REQUESTS * 4)
    first = 0
    for request, length in enumerate(lengths):
        span, own = slice(first, first + length), torch.tensor(blocks[4 * request : 4 * request + 4])
        positions = torch.arange(length)
        inputs.token_ids[span] = (positions * 7 + request) % 128
        inputs.positions[span] = positions
        inputs.slot_mapping[span] = own[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        inputs.block_tables[request] = own
        inputs.query_start_loc[request : request + 2] = torch.tensor([first, first + length])
        inputs.seq_lens[request] = length
        first += length


def eager(step: Step, inputs: StepInputs, tokens: int, requests: int) -> torch.Tensor:
    sizes = {"block_tables": requests, "query_start_loc": requests + 1, "seq_lens": requests}
    with torch.inference_mode():
        return step(*(x[: sizes.get(name, tokens)] for name, x in inputs._asdict().items()))


def bound(programs: Sequence[RangeProgram], step: Step, inputs: StepInputs) -> CompiledStep:
    """Programs over the memory of a step; logits are of the first tokens."""
    indices = torch.arange(len(inputs.token_ids))
    return CompiledStep(programs, step, inputs, indices, len(inputs.seq_lens))
