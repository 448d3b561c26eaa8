"""A checkpoint of every quantized format computes what its dequantization says."""

from __future__ import annotations

from pathlib import Path

import model_harness as harness
import numpy as np
import pytest
import quantized_formats as formats
import torch
from quantized_cases import FORMATS, tiny_llama
from transformers import PreTrainedModel

from ozone.compilation.artifact_key import key_of, key_parts
from ozone.compilation.lowering import Capacity
from ozone.compilation.step import Step
from ozone.ops.choice import OpChoice
from ozone.ops.registry import NATIVE


def _differences(emulation: PreTrainedModel, folder: Path, dtype: str) -> torch.Tensor:
    """Of logits over prefill and decode, (tokens, vocabulary), in standard deviations of the logits."""
    runner = harness.open_runner(folder, dtype)
    one, other = requests = harness.make_requests(runner.vocab_size, [40, 30])
    harness.step(runner, [(one, 21), (other, 5)])
    for _ in range(4):
        harness.step(runner, [(request, 1) for request in requests])
    differences = []
    for request in requests:
        ours = torch.from_numpy(np.concatenate(request.logits))
        with torch.inference_mode():
            theirs = emulation(torch.tensor([request.token_ids[: len(ours)]])).logits[0].float()
        differences.append((ours - theirs) / theirs.std())
    return torch.cat(differences)


def _assert_equal(differences: torch.Tensor, *, rounds_inputs: bool) -> None:
    """Sums differ in their last digits, so an input between two numbers of its grid is rounded to either, a
    few times in some ten thousand: most tokens are not concerned, and the others little.
    """
    of_tokens = differences.abs().amax(1)
    if not rounds_inputs:
        assert float(of_tokens.max()) < 1e-4
    assert float(of_tokens.median()) < 1e-4
    assert float(differences.square().mean().sqrt()) < 0.02


@pytest.mark.parametrize("name", FORMATS)
def test_logits_equal_those_of_the_dequantized_model(name: str, tmp_path: Path) -> None:
    emulation = formats.save_quantized(tiny_llama(), tmp_path, FORMATS[name])
    rounds_inputs = "alone" not in name and name.startswith(("fp8", "int8"))
    _assert_equal(_differences(emulation, tmp_path, "float32"), rounds_inputs=rounds_inputs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["fp8_static", "fp8_block", "int8", "int4_g32", "gptq_ordered", "awq_g32"])
def test_narrow_activations_stay_close(name: str, dtype: str, tmp_path: Path) -> None:
    emulation = formats.save_quantized(tiny_llama(), tmp_path, FORMATS[name])
    differences = _differences(emulation, tmp_path, dtype)
    assert float(differences.square().mean().sqrt()) < (0.1 if "fp8" in name else 0.05)


@pytest.mark.parametrize("name", ["fp8_static_apart", "fp8_block", "int8", "int4_g16_asymmetric", "gptq_g32"])
def test_biases_are_added_unquantized(name: str, tmp_path: Path) -> None:
    model = tiny_llama(attention_bias=True, mlp_bias=True)
    emulation = formats.save_quantized(model, tmp_path, FORMATS[name])
    _assert_equal(_differences(emulation, tmp_path, "float32"), rounds_inputs="8" in name)


@pytest.mark.skipif(not NATIVE, reason="programs need the native library")
def test_every_format_has_a_key_of_its_programs_that_another_start_finds(tmp_path: Path) -> None:
    keys = {}
    for name in FORMATS:
        folder = tmp_path / name
        formats.save_quantized(tiny_llama(), folder, FORMATS[name])
        for _ in range(2):
            runner = harness.open_runner(folder, "bfloat16", op=OpChoice(("all",), compiled=True))
            step = Step(runner._model, runner._kv_caches)
            parts = key_parts(step, runner._inputs, harness.compilation(), Capacity(256, 8))
            assert keys.setdefault(name, key_of(parts)) == key_of(parts)
    assert len({keys["fp8_static"], keys["int8"], keys["int4_g32"], keys["gptq_ordered"]}) == 4
