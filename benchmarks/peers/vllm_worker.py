"""vLLM's CPU backend through its `LLMEngine`, at its default level, in bfloat16: it reads no GGUF on CPUs."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from checkpoint import folder_of
from worker import serve

# In this process: what it takes to hand each token over from another is not the engine's speed.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

folder = folder_of(Path(sys.argv[1]), Path(__file__).parents[1] / ".peers" / "checkpoints")

import vllm  # noqa: E402
from vllm import EngineArgs, LLMEngine, SamplingParams  # noqa: E402

# A share of the memory, whatever the others have taken of it; its cache takes that much.
arguments = EngineArgs(
    str(folder), max_model_len=2048, enable_prefix_caching=False, gpu_memory_utilization=0.2
)
engine = LLMEngine.from_engine_args(arguments)
names = itertools.count()


def generate(token_ids: list[int], output_tokens: int) -> Iterator[object]:
    params = SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True)
    engine.add_request(str(next(names)), {"prompt_token_ids": token_ids}, params)
    while engine.has_unfinished_requests():
        yield from engine.step()


serve(vllm.__version__, generate)
