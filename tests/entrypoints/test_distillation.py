"""Scales and norms of a quantized model learn to predict what the original does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ozone.entrypoints import distillation
from ozone.entrypoints.distillation import distill
from ozone.layers.norm import RMSNorm
from ozone.quantization.learned_scales import IntegerMatrix
from ozone.weights.model_files import open_model

sys.path.append(str(Path(__file__).parents[1] / "models"))
from model_harness import make_requests, open_runner, step
from tiny_checkpoints import save, tiny_model

WINDOW = 40


def _logits(
    folder: Path,
    tokens: list[int],
    matrices: dict[str, IntegerMatrix],
    learned: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Logarithms of probabilities, (tokens, vocabulary), with what was learned in place of what was read."""
    learned = learned or {}
    files = open_model(str(folder))
    matrices = {
        linear: replace(matrix, scales=learned.get(f"{linear}.weight_scale", matrix.scales))
        for linear, matrix in matrices.items()
    }
    model = distillation._model(files.config, files.open_weights(), matrices, len(tokens))
    for module in model.modules():
        if isinstance(module, RMSNorm) and f"{module.name}.weight" in learned:
            module.weight.data = learned[f"{module.name}.weight"] + float(module.offset)
    with torch.no_grad():
        return distillation._log_probabilities(model, torch.tensor(tokens))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3"])
def test_the_model_that_learns_is_the_model_that_runs(name: str, tmp_path: Path) -> None:
    """Without a cache, in plain PyTorch: biases, norms of heads, sliding windows."""
    folder = save(tiny_model(name), tmp_path / "model", "float32")
    runner = open_runner(folder, "bfloat16")
    (request,) = make_requests(runner.vocab_size, [WINDOW])
    step(runner, [(request, WINDOW)])
    expected = torch.from_numpy(request.logits[0]).log_softmax(-1)
    found = _logits(folder, request.token_ids, {})
    error = (found - expected).square().mean().sqrt() / expected.std()
    assert error < 0.05


def _rounded(folder: Path) -> dict[str, IntegerMatrix]:
    """The feed-forward matrices on a grid of four bits, with scales that are too large by a tenth."""
    source = open_model(str(folder)).open_weights()
    matrices = {}
    for name in source.names():
        if ".mlp." in name:
            raw = source.get(name)
            weight = torch.from_numpy(raw.data.copy().view(np.float32)).view(*raw.shape)
            groups = weight.view(len(weight), -1, 16)
            scales = groups.abs().amax(-1) / 7
            numbers = (groups / scales.unsqueeze(-1)).round().to(torch.int8)
            matrices[name.removesuffix(".weight")] = IntegerMatrix(numbers, (1.1 * scales).to(torch.bfloat16))
    return matrices


# The norms behind Gemma's blocks undo what scales have in common, and leave less to learn.
@pytest.mark.parametrize(("name", "bound"), [("llama", 0.7), ("gemma3", 0.95)])
def test_what_was_learned_predicts_more_like_the_original(name: str, bound: float, tmp_path: Path) -> None:
    folder = save(tiny_model(name), tmp_path / "model", "float32")
    files, matrices = open_model(str(folder)), _rounded(folder)
    random = torch.Generator().manual_seed(1)
    windows = [torch.randint(0, 60, (WINDOW,), generator=random).tolist() for _ in range(12)]
    unseen = windows.pop()
    steps: list[int] = []
    learned = distill(files.config, files.open_weights(), matrices, windows, 100, steps.append)
    assert steps == list(range(1, 101))
    assert learned.keys() == {f"{linear}.weight_scale" for linear in matrices} | {
        tensor for tensor in files.open_weights().names() if "norm" in tensor
    }
    scales = [learned[f"{linear}.weight_scale"] for linear in matrices]
    assert all(scale.dtype is torch.bfloat16 for scale in scales)
    original = _logits(folder, unseen, {})

    def divergence(learned: dict[str, torch.Tensor] | None) -> float:
        found = _logits(folder, unseen, matrices, learned)
        return float((original.exp() * (original - found)).sum(-1).mean())

    assert divergence(learned) < bound * divergence(None)
