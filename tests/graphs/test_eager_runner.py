"""The eager runner: its cache, its limits, and the default model in it."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from runner_fakes import FakeRequest
from transformers import AutoModelForCausalLM

from ozone.config.model import ModelConfig
from ozone.config.schema import CacheConfig, SchedulerConfig
from ozone.engine.runner import ScheduledRequest
from ozone.errors import ConfigError
from ozone.graphs.eager_runner import EagerRunner, kv_block_bytes
from ozone.models import build_model, load_weights
from ozone.models.causal_lm import CausalLM
from ozone.weights.model_files import ModelFiles, open_model


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return open_model("smollm2")


def load(files: ModelFiles, dtype: str, max_model_len: int) -> CausalLM:
    model = build_model(files.config, dtype=getattr(torch, dtype), max_model_len=max_model_len)
    load_weights(model, files.open_weights(), num_threads=2)
    return model


@pytest.fixture(scope="module")
def model(files: ModelFiles) -> CausalLM:
    return load(files, "bfloat16", 256)


@pytest.fixture(scope="module")
def exact_model(files: ModelFiles) -> CausalLM:
    return load(files, "float32", 256)


def make_runner(
    model: CausalLM,
    config: ModelConfig,
    cache_bytes: int,
    dtype: str = "bfloat16",
    kv_cache_dtype: str = "auto",
    block_size: int = 16,
) -> EagerRunner:
    return EagerRunner(
        model,
        config,
        dtype=dtype,
        cache=CacheConfig(
            block_size=block_size, kv_cache_memory_bytes=cache_bytes, kv_cache_dtype=kv_cache_dtype
        ),
        scheduler=SchedulerConfig(max_num_batched_tokens=256, max_num_seqs=4),
        max_model_len=256,
        num_threads=1,
    )


def test_a_block_holds_keys_and_values_of_every_layer(files: ModelFiles) -> None:
    assert kv_block_bytes(files.config, 16, "bfloat16") == 2 * 30 * 16 * 3 * 64 * 2
    assert kv_block_bytes(files.config, 32, "float32") == 2 * 30 * 32 * 3 * 64 * 4


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16", "float32", "int8", "fp8"])
def test_a_cache_takes_what_its_blocks_were_said_to_take(
    files: ModelFiles, model: CausalLM, dtype: str
) -> None:
    block = kv_block_bytes(files.config, 32, "bfloat16" if dtype == "auto" else dtype)
    runner = make_runner(model, files.config, 20 * block, kv_cache_dtype=dtype, block_size=32)
    assert runner.num_blocks == 20
    assert runner.kv_cache_bytes == 20 * block


@pytest.mark.parametrize(
    ("dtype", "block_size", "mean", "least"),
    [
        ("bfloat16", 64, 0.99997, 0.9998),
        ("float16", 16, 0.99999, 0.99999),
        ("int8", 32, 0.9996, 0.997),
        ("fp8", 16, 0.996, 0.98),
    ],
)
def test_a_cache_of_another_type_changes_logits_little(
    files: ModelFiles, exact_model: CausalLM, dtype: str, block_size: int, mean: float, least: float
) -> None:
    """Measured as the cosine between logits without their mean: a prompt, then decode."""
    tokens = [504, 3575, 282, 4649, 314] * 25

    def logits(kv_cache_dtype: str, block_size: int) -> torch.Tensor:
        runner = make_runner(exact_model, files.config, 64 << 20, "float32", kv_cache_dtype, block_size)
        request = FakeRequest(tokens, [3, 1, 2, 5, 0, 4, 7, 6])
        rows = [runner.execute([ScheduledRequest(request, 0, 100, "all")]).copy()]
        rows += [runner.execute([ScheduledRequest(request, i, 1, "last")]).copy() for i in range(100, 125)]
        scores = torch.from_numpy(np.concatenate(rows))
        return scores - scores.mean(-1, keepdim=True)

    similarity = torch.cosine_similarity(logits(dtype, block_size), logits("auto", 16))
    assert similarity.mean() > mean
    # A row of int8's 125 tells how sums are rounded: 0.9958 with AVX2, 0.9968 in plain PyTorch on that CPU.
    assert similarity.sort().values[1 if dtype == "int8" else 0] > least


def test_the_cache_has_as_many_blocks_as_fit(files: ModelFiles, model: CausalLM) -> None:
    block = kv_block_bytes(files.config, 16, "bfloat16")
    assert make_runner(model, files.config, 20 * block + block // 2).num_blocks == 20


def test_a_cache_too_small_for_one_request_names_both_flags_and_what_would_do(
    files: ModelFiles, model: CausalLM
) -> None:
    block = kv_block_bytes(files.config, 16, "bfloat16")
    with pytest.raises(ConfigError) as caught:
        make_runner(model, files.config, 10 * block)
    assert str(caught.value) == (
        f"--kv-cache-memory-bytes {10 * block} holds 160 tokens, less than one request of "
        f"--max-model-len 256: set it to at least {16 * block}, or --max-model-len to at most 160"
    )


def test_an_unused_cache_takes_no_memory(files: ModelFiles, model: CausalLM) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runner = make_runner(model, files.config, 4 << 30)
    runner.execute([ScheduledRequest(FakeRequest([1, 2], [5]), 0, 2, "last")])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # kilobytes


def test_rows_of_logits_come_in_the_order_of_the_requests(files: ModelFiles, model: CausalLM) -> None:
    runner = make_runner(model, files.config, 64 << 20)
    a, b, c = FakeRequest([1, 2, 3], [4]), FakeRequest([7, 8], [2]), FakeRequest([9], [0])
    work = [
        ScheduledRequest(a, 0, 3, "all"),
        ScheduledRequest(b, 0, 2, "none"),
        ScheduledRequest(c, 0, 1, "last"),
    ]
    together = runner.execute(work).copy()
    assert together.shape == (4, files.config.vocab_size)
    assert together.flags.c_contiguous
    alone = [runner.execute([work[0]]).copy(), runner.execute([work[2]]).copy()]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=0.5)
    assert (together.argmax(1) == np.concatenate(alone).argmax(1)).all()


def test_a_step_that_wants_no_logits_gets_none(files: ModelFiles, model: CausalLM) -> None:
    runner = make_runner(model, files.config, 64 << 20)
    logits = runner.execute([ScheduledRequest(FakeRequest([1, 2], [0]), 0, 2, "none")])
    assert logits.shape == (0, files.config.vocab_size)
    assert logits.dtype == np.float32


def test_a_step_uses_the_given_number_of_threads_in_whatever_thread_it_runs(
    files: ModelFiles, model: CausalLM
) -> None:
    runner = make_runner(model, files.config, 64 << 20)
    threads: list[int] = []

    def run() -> None:
        threads.append(len(os.listdir("/proc/self/task")))
        runner.execute([ScheduledRequest(FakeRequest([1] * 200, list(range(13))), 0, 200, "last")])
        threads.append(len(os.listdir("/proc/self/task")))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert threads[1] == threads[0]


@pytest.mark.slow
def test_the_default_model_gives_the_logits_of_transformers(files: ModelFiles) -> None:
    path = Path(files.path)
    reference = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    # "The capital of France is", then greedy continuation by the reference.
    tokens = [504, 3575, 282, 4649, 314]
    with torch.inference_mode():
        tokens = reference.generate(torch.tensor([tokens]), max_new_tokens=40, do_sample=False)[0].tolist()
        expected = reference(torch.tensor([tokens])).logits[0].numpy()
    runner = make_runner(load(files, "float32", 256), files.config, 64 << 20, "float32")
    request = FakeRequest(tokens, [3, 1, 2])
    rows = [runner.execute([ScheduledRequest(request, 0, 20, "all")]).copy()]
    rows += [runner.execute([ScheduledRequest(request, i, 1, "last")]).copy() for i in range(20, len(tokens))]
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-3)
