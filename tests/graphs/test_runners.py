"""Every mode of compilation and graphs gives the logits of the eager model, over random mixes of requests."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runner_fakes import FakeRequest
from torch._dynamo.utils import counters

from ozone.config.schema import (
    CacheConfig,
    CompilationConfig,
    CompilationMode,
    CUDAGraphMode,
    PassConfig,
    SchedulerConfig,
)
from ozone.engine.runner import ScheduledRequest
from ozone.errors import ConfigError
from ozone.graphs.captured_runner import CapturedRunner
from ozone.graphs.compiled_runner import CompiledRunner
from ozone.graphs.eager_runner import EagerRunner
from ozone.graphs.generated_runner import GeneratedRunner
from ozone.models import build_model, load_weights
from ozone.ops.choice import OpChoice
from ozone.ops.registry import NATIVE
from ozone.weights.model_files import open_model

MAX_TOKENS, MAX_REQUESTS, BLOCK_SIZE, NUM_BLOCKS = 48, 6, 16, 64

FULL, PIECEWISE, NONE = CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE, CUDAGraphMode.NONE
Modes = CompilationMode


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def make_runner(
    kind: type[EagerRunner],
    path: Path,
    custom_ops: str,
    max_model_len: int = 128,
    num_threads: int = 2,
    **compilation: Any,
) -> EagerRunner:
    files = open_model(str(path))
    ops = tuple(custom_ops.split(","))
    op = OpChoice(ops, compiled=kind is not EagerRunner)
    model = build_model(files.config, dtype=torch.float32, max_model_len=max_model_len, op=op)
    load_weights(model, files.open_weights(), num_threads=2)
    block_bytes = BLOCK_SIZE * 3 * 2 * 2 * 16 * 4
    settings: dict[str, Any] = {
        "dtype": "float32",
        "cache": CacheConfig(block_size=BLOCK_SIZE, kv_cache_memory_bytes=NUM_BLOCKS * block_bytes),
        "scheduler": SchedulerConfig(max_num_batched_tokens=MAX_TOKENS, max_num_seqs=MAX_REQUESTS),
        "max_model_len": max_model_len,
        "num_threads": num_threads,
    }
    if kind is not EagerRunner:
        settings["compilation"] = CompilationConfig(custom_ops=ops, **compilation)
    return kind(model, files.config, **settings)


def mixed_steps(seed: int) -> list[list[ScheduledRequest]]:
    """Requests in chunks of random sizes, several at a time, then decoding."""
    rng = random.Random(seed)
    blocks = rng.sample(range(NUM_BLOCKS), NUM_BLOCKS)
    requests = [
        FakeRequest([rng.randrange(160) for _ in range(64)], blocks[4 * i : 4 * i + 4])
        for i in range(MAX_REQUESTS)
    ]
    done = dict.fromkeys(range(MAX_REQUESTS), 0)
    steps = []
    for _ in range(14):
        step, room = [], MAX_TOKENS
        for i in rng.sample(range(MAX_REQUESTS), rng.randint(1, MAX_REQUESTS)):
            count = min(rng.choice([1, 1, 1, 5, 17]), 64 - done[i], room)
            if count > 0:
                step.append(ScheduledRequest(requests[i], done[i], count, rng.choice(["last", "all"])))
                done[i] += count
                room -= count
        if step:
            steps.append(step)
    steps.append([ScheduledRequest(requests[i], 63, 1, "last") for i in range(MAX_REQUESTS)])
    return steps


def compare(runner: EagerRunner, path: Path, tolerance: float = 0.0) -> None:
    reference = make_runner(EagerRunner, path, "all")
    for seed in range(3):
        for step in mixed_steps(seed):
            expected = reference.execute(step).copy()
            np.testing.assert_allclose(runner.execute(step), expected, rtol=0, atol=tolerance)


@pytest.mark.skipif(not NATIVE, reason="programs need the native library")
@pytest.mark.parametrize("graphs", CUDAGraphMode)
@pytest.mark.parametrize("mode", [Modes.VLLM_COMPILE, Modes.DYNAMO_TRACE_ONCE])
def test_programs_and_graphs_give_the_bits_of_the_eager_model(
    checkpoint: Path, mode: CompilationMode, graphs: CUDAGraphMode
) -> None:
    compilation = {
        "mode": mode,
        "cudagraph_mode": graphs,
        "cudagraph_capture_sizes": (1, 2, 4, 8, 16),
        "splitting_ops": ("attention",) if mode is Modes.VLLM_COMPILE else (),
        "compile_ranges_endpoints": (20, MAX_TOKENS) if mode is Modes.VLLM_COMPILE else (),
        "compile_sizes": (6, 1),
    }
    compare(make_runner(CompiledRunner, checkpoint, "all", **compilation), checkpoint)


@pytest.mark.skipif(not NATIVE, reason="programs need the native library")
@pytest.mark.parametrize("graphs", [FULL, CUDAGraphMode.FULL_DECODE_ONLY])
def test_a_captured_model_gives_the_bits_of_the_eager_one(checkpoint: Path, graphs: CUDAGraphMode) -> None:
    sizes = (1, 2, 4, 8, 40)
    compilation = {"cudagraph_mode": graphs, "cudagraph_capture_sizes": sizes}
    compare(make_runner(CapturedRunner, checkpoint, "all", **compilation), checkpoint)


@pytest.mark.skipif(not NATIVE, reason="programs need the native library")
@pytest.mark.parametrize("graphs", [NONE, PIECEWISE, FULL])
@pytest.mark.parametrize("kind", [CompiledRunner, CapturedRunner])
def test_long_contexts_are_attended_to_in_memory_of_their_own(
    checkpoint: Path, kind: type[EagerRunner], graphs: CUDAGraphMode
) -> None:
    """Decode splits contexts of more than 256 positions, and keeps parts of results beside the result."""
    compilation: dict[str, Any] = {"cudagraph_mode": graphs, "cudagraph_capture_sizes": (8,)}
    if kind is CompiledRunner:
        compilation |= {"mode": Modes.VLLM_COMPILE, "splitting_ops": ("attention",)}
    runner = make_runner(kind, checkpoint, "all", max_model_len=768, **compilation)
    reference = make_runner(EagerRunner, checkpoint, "all", max_model_len=768)
    rng = random.Random(0)
    blocks = rng.sample(range(NUM_BLOCKS), NUM_BLOCKS)
    lengths = (600, 300, 40)
    requests = []
    for length in lengths:
        needed = -(-length // BLOCK_SIZE)
        requests.append(FakeRequest([rng.randrange(160) for _ in range(length)], blocks[:needed]))
        blocks = blocks[needed:]
    for request, length in zip(requests, lengths, strict=True):
        for start in range(0, length - 4, MAX_TOKENS):
            step = [ScheduledRequest(request, start, min(MAX_TOKENS, length - 4 - start), "last")]
            np.testing.assert_array_equal(runner.execute(step), reference.execute(step))
    for back in (4, 3, 2, 1):
        step = [
            ScheduledRequest(request, length - back, 1, "last")
            for request, length in zip(requests, lengths, strict=True)
        ]
        np.testing.assert_array_equal(runner.execute(step), reference.execute(step))


@pytest.mark.parametrize("custom_ops", ["none", "all"])
@pytest.mark.parametrize("mode", [Modes.STOCK_TORCH_COMPILE, Modes.DYNAMO_TRACE_ONCE, Modes.VLLM_COMPILE])
def test_graphs_that_run_as_they_were_traced(
    checkpoint: Path, mode: CompilationMode, custom_ops: str
) -> None:
    compilation = {"mode": mode, "backend": "eager", "splitting_ops": ("attention",), "compile_sizes": (1, 6)}
    runner = make_runner(GeneratedRunner, checkpoint, custom_ops, **compilation)
    compiled = dict(counters["stats"])
    compare(runner, checkpoint, tolerance=1e-5)
    assert dict(counters["stats"]) == compiled, "compiled again while serving"


@pytest.mark.slow
@pytest.mark.parametrize("custom_ops", ["none", "all", "none,+rms_norm"])
@pytest.mark.parametrize("mode", [Modes.STOCK_TORCH_COMPILE, Modes.DYNAMO_TRACE_ONCE, Modes.VLLM_COMPILE])
def test_generated_code(checkpoint: Path, mode: CompilationMode, custom_ops: str) -> None:
    compilation = {
        "mode": mode,
        "backend": "inductor",
        "splitting_ops": ("attention",),
        "compile_sizes": (1, 6),
    }
    runner = make_runner(GeneratedRunner, checkpoint, custom_ops, **compilation)
    compiled = dict(counters["stats"])
    compare(runner, checkpoint, tolerance=1e-5)
    assert dict(counters["stats"]) == compiled, "compiled again while serving"


def test_generated_code_in_one_mode(checkpoint: Path) -> None:
    """One of the slow cases above in every run; a step in which all requests decode has a size of its own."""
    compilation = {
        "mode": Modes.VLLM_COMPILE,
        "backend": "inductor",
        "splitting_ops": ("attention",),
        "compile_sizes": (MAX_REQUESTS,),
    }
    compare(make_runner(GeneratedRunner, checkpoint, "none", **compilation), checkpoint, tolerance=1e-5)


def test_passes_fuse_what_is_custom_of_a_model_that_is_not_all_programs(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The caches that a fused write fills are the ones that attention reads."""
    compilation = {
        "mode": Modes.VLLM_COMPILE,
        "backend": "eager",
        "splitting_ops": ("attention",),
        "pass_config": PassConfig(fuse_rope_kvcache=True, fuse_norm_quant=True),
    }
    with caplog.at_level(logging.DEBUG, logger="ozone"):
        runner = make_runner(GeneratedRunner, checkpoint, "all,-silu_and_mul", **compilation)
    assert any("fuse_rope_kvcache: 3 places" in message for message in caplog.messages)
    compare(runner, checkpoint, tolerance=1e-5)


def test_no_compiler_is_a_clear_mistake(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"-cc.mode=STOCK_TORCH_COMPILE .*C\+\+ compiler.*-cc.mode=VLLM"):
        make_runner(GeneratedRunner, checkpoint, "none", mode=Modes.STOCK_TORCH_COMPILE)


def test_models_of_one_process_are_compiled_one_after_another(checkpoint: Path) -> None:
    stock = {"mode": Modes.STOCK_TORCH_COMPILE, "backend": "eager"}
    with torch._dynamo.config.patch(recompile_limit=2):
        for max_model_len in (64, 80, 96, 112):  # with a table of that length each
            make_runner(GeneratedRunner, checkpoint, "none", max_model_len, **stock)


@pytest.mark.parametrize("mode", [Modes.STOCK_TORCH_COMPILE, Modes.VLLM_COMPILE])
def test_a_model_is_compiled_for_the_number_of_threads_it_runs_with(
    checkpoint: Path, mode: CompilationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many the caller has: torch keeps a number for each thread, and the engine steps in its own."""
    during: list[int] = []
    compile_model = GeneratedRunner._compiled

    def compiled(*args: Any) -> Any:
        during.append(torch.get_num_threads())
        return compile_model(*args)

    monkeypatch.setattr(GeneratedRunner, "_compiled", compiled)
    before = torch.get_num_threads()
    settings: dict[str, Any] = {"num_threads": before + 1, "mode": mode, "backend": "eager"}
    runner = make_runner(GeneratedRunner, checkpoint, "none", **settings)
    assert during == [before + 1] and torch.get_num_threads() == before
    with torch._dynamo.config.patch(error_on_recompile=True):
        compare(runner, checkpoint, tolerance=1e-5)
