"""Every family, from both file formats, computes what transformers computes."""

from __future__ import annotations

import functools
from pathlib import Path

import model_harness as harness
import numpy as np
import pytest
import tiny_checkpoints as checkpoints
import torch
from transformers.models.gemma3 import modeling_gemma3

from ozone.graphs.compiled_runner import CompiledRunner
from ozone.ops.choice import OpChoice
from ozone.ops.registry import NATIVE

TOLERANCE = 1e-4


CASES = [(name, "safetensors", ops) for name in checkpoints.MODELS for ops in ("none", "all", "compiled")] + [
    (name, "gguf", "none") for name in checkpoints.GGUF_MODELS
]


@pytest.mark.parametrize(("name", "format", "custom_ops"), CASES)
def test_logits_equal_those_of_transformers_in_prefill_chunks_and_decode(
    name: str, format: str, custom_ops: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three requests together: one prefilled whole, one in chunks between the others' steps, one short."""
    model = checkpoints.tiny_model(name)
    if softcap := getattr(model.config, "attn_logit_softcapping", None):
        # The reference reads this key and its attention knows soft-capping, but nothing connects the two.
        capped = functools.partial(modeling_gemma3.eager_attention_forward, softcap=softcap)
        monkeypatch.setattr(modeling_gemma3, "eager_attention_forward", capped)
    compiled = custom_ops == "compiled"
    if compiled and not NATIVE:
        pytest.skip("programs need the native library")
    op = OpChoice(("all" if compiled else custom_ops,), compiled=compiled)
    compilation = harness.compilation() if compiled else None
    folder = checkpoints.save(model, tmp_path, format)
    runner = harness.open_runner(folder, op=op, compilation=compilation, kept=tmp_path / "kept")
    if compiled:  # as a second start does it, without compiling
        runner = harness.open_runner(folder, op=op, compilation=compilation, kept=tmp_path / "kept")
        assert isinstance(runner, CompiledRunner)
        assert runner.programs.loaded
    whole, chunked, short = requests = harness.make_requests(runner.vocab_size, [85, 100, 50])
    harness.step(runner, [(whole, 53), (chunked, 30)])
    harness.step(runner, [(chunked, 17), (whole, 1), (short, 5)])
    harness.step(runner, [(short, 1), (chunked, 21), (whole, 1)])
    for _ in range(30):
        harness.step(runner, [(request, 1) for request in requests])
    for _ in range(2):
        harness.step(runner, [(chunked, 1), (short, 1)])
    assert all(sum(map(len, r.logits)) == r.num_computed_tokens for r in requests)
    assert harness.greatest_difference(model, requests) < TOLERANCE


def test_sharded_safetensors_give_the_same_logits_as_a_single_file(tmp_path: Path) -> None:
    model = checkpoints.tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    runner = harness.open_runner(tmp_path)
    (request,) = harness.make_requests(runner.vocab_size, [40])
    harness.step(runner, [(request, 40)])
    assert harness.greatest_difference(model, [request]) < TOLERANCE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_half_precision_stays_close_to_float32(name: str, dtype: str, tmp_path: Path) -> None:
    model = checkpoints.tiny_model(name)
    model.save_pretrained(tmp_path)
    runner = harness.open_runner(tmp_path, dtype)
    requests = harness.make_requests(runner.vocab_size, [60, 45])
    harness.step(runner, [(request, 40) for request in requests])
    for _ in range(5):
        harness.step(runner, [(request, 1) for request in requests])
    spread = float(np.concatenate(requests[0].logits).std())
    tolerance = {"bfloat16": 0.15, "float16": 0.02}[dtype]
    errors = harness.differences(model, requests)
    # A logit of Gemma 3's 14,000 tells how sums are rounded: 0.157 with AVX2.
    others = 1 if (name, dtype) == ("gemma3", "bfloat16") else 0
    assert np.sort(errors, axis=None)[-1 - others] < tolerance * spread
    exact = harness.reference_logits(model, requests)
    theirs = harness.reference_logits(model.to(getattr(torch, dtype)), requests) - exact
    assert np.sqrt(np.square(errors).mean()) < 1.02 * np.sqrt(np.square(theirs).mean()), "transformers' own"
