"""GGUF files that keep their block types compute what their dequantization with int8 inputs says."""

from __future__ import annotations

from pathlib import Path

import model_harness as harness
import numpy as np
import pytest
import torch
from gguf_models import save_random_gguf, with_int8_inputs
from transformers import PreTrainedModel

from ozone.graphs.eager_runner import EagerRunner
from ozone.ops.linear_gguf import GGUF_PACKINGS
from ozone.quantization import gguf_linear


def _differences(model: PreTrainedModel, runner: EagerRunner) -> torch.Tensor:
    """Of logits over prefill and decode, the largest of each token, in standard deviations of the logits."""
    requests = harness.make_requests(runner.vocab_size, [7, 3, 5, 4, 4, 3, 20, 4])
    harness.step(runner, [(request, len(request.token_ids) - 1) for request in requests])
    harness.step(runner, [(request, 1) for request in requests])
    differences = []
    for request in requests:
        ours = torch.from_numpy(np.concatenate(request.logits))
        with torch.inference_mode():
            theirs = model(torch.tensor([request.token_ids])).logits[0]
        differences.append(((ours - theirs) / theirs.std()).abs().amax(1))
    return torch.cat(differences)


def _assert_equal(differences: torch.Tensor) -> None:
    """Sums differ in their last digits, so an input half-way between two integers is rounded to either, a few
    times in some ten thousand: that token, and those of its request that attend to it, differ visibly.
    """
    assert float(differences.median()) < 1e-4
    assert float(differences.max()) < 0.2


@pytest.fixture
def quantized_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are kept in float32 models too, whose other operations are exact enough to compare with."""
    monkeypatch.setattr(gguf_linear, "EXACT_DTYPES", frozenset())


def _weight_bytes(runner: EagerRunner) -> int:
    return sum(p.nbytes for p in runner._model.parameters())


@pytest.mark.usefixtures("quantized_float32")
@pytest.mark.parametrize("kind", GGUF_PACKINGS)
def test_a_file_of_one_type_computes_what_its_numbers_say(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    model = save_random_gguf(path, lambda name: kind)
    runner = harness.open_runner(path, "float32")
    # Panels of 48 rows do not divide these small matrices.
    assert _weight_bytes(runner) < path.stat().st_size * 1.2
    assert 0.005 < float(_differences(model, runner).median()) < 0.2
    _assert_equal(_differences(with_int8_inputs(model, lambda name: True), runner))


MIXED = {"attn_q": "Q4_K", "attn_k": "Q4_K", "attn_v": "Q6_K", "ffn_gate": "Q5_0", "ffn_up": "Q8_0"}
PARTLY = {"attn_q": "Q3_K", "attn_k": "Q2_K", "attn_v": "Q5_K", "ffn_gate": "F16", "ffn_down": "Q3_K"}


@pytest.mark.usefixtures("quantized_float32")
@pytest.mark.parametrize("types", [MIXED, PARTLY])
@pytest.mark.parametrize("tied", [False, True])
def test_types_may_differ_inside_of_a_file_and_of_a_merged_linear(
    types: dict[str, str], tied: bool, tmp_path: Path
) -> None:
    def kind(name: str) -> str:
        return next((kind for part, kind in types.items() if part in name), "Q4_1")

    path = tmp_path / "model.gguf"
    model = save_random_gguf(path, kind, tied=tied)
    runner = harness.open_runner(path, "float32")
    emulation = with_int8_inputs(model, lambda name: kind(name) in GGUF_PACKINGS)
    _assert_equal(_differences(emulation, runner))


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float16", 0.15)])
def test_narrow_activations_stay_close(dtype: str, tolerance: float, tmp_path: Path) -> None:
    model = save_random_gguf(tmp_path / "model.gguf", lambda name: "Q4_1")
    differences = _differences(model, harness.open_runner(tmp_path / "model.gguf", dtype))
    assert float(differences.max()) < tolerance


def test_a_model_in_float32_has_the_numbers_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    model = save_random_gguf(path, lambda name: "Q5_K", tied=True)
    assert float(_differences(model, harness.open_runner(path, "float32")).max()) < 1e-4


def test_products_in_a_batch_are_those_of_a_request_alone(tmp_path: Path) -> None:
    save_random_gguf(tmp_path / "model.gguf", lambda name: "Q4_1")
    runner = harness.open_runner(tmp_path / "model.gguf", "bfloat16")
    batch, (alone, *_) = (harness.make_requests(runner.vocab_size, [12, 50, 30], seed=5) for _ in range(2))
    harness.step(runner, [(request, 10) for request in batch])
    harness.step(runner, [(alone, 10)])
    assert np.abs(batch[0].logits[0] - alone.logits[0]).max() < 1e-3
