"""vLLM's CPU backend through its `LLMEngine`, at its default level."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import vllm
from vllm import EngineArgs, LLMEngine, SamplingParams
from worker import serve

engine = LLMEngine.from_engine_args(EngineArgs(sys.argv[1], max_model_len=2048, enable_prefix_caching=False))
names = itertools.count()


def generate(token_ids: list[int], output_tokens: int) -> Iterator[object]:
    params = SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True)
    engine.add_request(str(next(names)), {"prompt_token_ids": token_ids}, params)
    while engine.has_unfinished_requests():
        yield from engine.step()


serve(vllm.__version__, generate)
