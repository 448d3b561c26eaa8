"""Every family says the same at every level, in every mode of compilation and graphs, under any schedule."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints as checkpoints
from tiny_llama import save_tokenizer

from ozone import LLM, SamplingParams
from ozone.ops.registry import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs and graphs need the native library")

FAMILIES = ("llama_llama3_rope", "mistral", "qwen2_sliding", "qwen3", "gemma3_softcaps")
EAGER = {"backend": "eager"}
GRAPHS = ("NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE")
FUSIONS = {
    "fuse_attn_quant": True,
    "fuse_rope_kvcache": True,
    "enable_qk_norm_rope_fusion": True,
    "fuse_qk_norm_rope_kvcache": True,
}
# name -> level, then -cc
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "O0 native ops": (0, {"custom_ops": ["all"]}),
    "O1": (1, {}),
    "O2": (2, {}),
    "O3": (3, {}),
    "captured": (0, {"cudagraph_mode": "FULL", "custom_ops": ["all"]}),
    "fused, two ranges": (2, {"pass_config": FUSIONS, "compile_ranges_endpoints": [7]}),
    "exact sizes": (2, {"compile_sizes": [1, 5]}),
    **{f"compiled, {graphs}": (1, {"cudagraph_mode": graphs}) for graphs in GRAPHS},
    **{
        f"traced once, {graphs}": (1, {"mode": "DYNAMO_TRACE_ONCE", "cudagraph_mode": graphs})
        for graphs in ("NONE", "FULL")
    },
    **{
        f"{mode}, {ops}": (1, {"mode": mode, "custom_ops": [ops], **EAGER})
        for mode, ops in itertools.product(
            ("STOCK_TORCH_COMPILE", "DYNAMO_TRACE_ONCE", "VLLM_COMPILE"), ("none", "all")
        )
        if (mode, ops) not in {("DYNAMO_TRACE_ONCE", "all"), ("VLLM_COMPILE", "all")}  # programs: above
    },
    "mixed ops": (1, {"custom_ops": ["none", "+rms_norm"], **EAGER}),
}
# A pool of 14 blocks of 16 tokens for six requests of up to 96: some are preempted, prompts come in chunks.
CROWDED = {"max_num_batched_tokens": 24, "max_num_seqs": 5, "max_model_len": 128}
NUM_BLOCKS = 14

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The checkpoint of a family, with a tokenizer that nothing here depends on."""
    known: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in known:
            known[name] = tmp_path_factory.mktemp(name)
            checkpoints.save(checkpoints.tiny_model(name), known[name], "safetensors")
            save_tokenizer(known[name])
        return known[name]

    return get


def prompts() -> list[dict[str, list[int]]]:
    """Of random lengths; some begin alike, by more than a block."""
    rng = random.Random(1)
    shared = [rng.randrange(3, 160) for _ in range(40)]
    tails = [[rng.randrange(3, 160) for _ in range(rng.choice((1, 5, 30)))] for _ in range(6)]
    return [{"prompt_token_ids": shared[: rng.choice((0, 20, 40))] + tail} for tail in tails]


def answers(path: Path, level: int, compilation: dict[str, Any], **engine: Any) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=26, ignore_eos=True)
    with LLM(
        str(path),
        dtype="float32",
        optimization_level=level,
        compilation_config=compilation or None,
        **engine,
    ) as llm:
        first = llm.generate(prompts(), params, use_tqdm=False)
        again = llm.generate(prompts()[::-1], params, use_tqdm=False)[::-1]  # prefixes are cached now
        tokens = [list(output.outputs[0].token_ids) for output in first]
        assert tokens == [list(output.outputs[0].token_ids) for output in again]
        return tokens


@pytest.fixture(scope="module")
def alone(folder: Folder) -> Callable[[str], list[list[int]]]:
    """What a family says at -O0 from plain PyTorch, with room for all."""
    known: dict[str, list[list[int]]] = {}

    def get(name: str) -> list[list[int]]:
        if name not in known:
            known[name] = answers(folder(name), 0, {"custom_ops": ["none"]}, max_model_len=128)
        return known[name]

    return get


def block_bytes(path: Path) -> int:
    from ozone.graphs.eager_runner import kv_block_bytes
    from ozone.weights.model_files import open_model

    return kv_block_bytes(open_model(str(path)).config, 16, "float32")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_level_zero(
    family: str,
    setting: str,
    folder: Folder,
    alone: Callable[[str], list[list[int]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = folder(family)
    level, compilation = SETTINGS[setting]
    with caplog.at_level(logging.WARNING, logger="ozone"):
        tokens = answers(
            path,
            level,
            compilation,
            block_size=16,
            kv_cache_memory_bytes=NUM_BLOCKS * block_bytes(path),
            **CROWDED,
        )
    assert tokens == alone(family)
    assert not [message for message in caplog.messages if "vocabulary" in message]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("custom_ops", [["none"], ["all"], ["none", "+rms_norm"]], ids=",".join)
@pytest.mark.parametrize("mode", ["STOCK_TORCH_COMPILE", "DYNAMO_TRACE_ONCE", "VLLM_COMPILE"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generated_code_gives_the_same_greedy_tokens(
    family: str, mode: str, custom_ops: list[str], folder: Folder, alone: Callable[[str], list[list[int]]]
) -> None:
    path = folder(family)
    memory = NUM_BLOCKS * block_bytes(path)
    setting = {"mode": mode, "custom_ops": custom_ops}
    given = answers(path, 1, setting, block_size=16, kv_cache_memory_bytes=memory, **CROWDED)
    assert given == alone(family)
