"""Which runner the settings come to; what an op outside the vocabulary does to programs and graphs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from ozone import LLM, SamplingParams
from ozone.graphs.captured_runner import CapturedRunner
from ozone.graphs.compiled_runner import CompiledRunner
from ozone.graphs.eager_runner import EagerRunner
from ozone.graphs.generated_runner import GeneratedRunner
from ozone.layers import activation
from ozone.ops.registry import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs need the native library")

EAGER = {"backend": "eager"}
CASES: list[tuple[int, dict[str, Any], type[EagerRunner]]] = [
    (0, {}, EagerRunner),
    (0, {"cudagraph_mode": "FULL"}, CapturedRunner),
    (1, {}, CompiledRunner),
    (2, {}, CompiledRunner),
    (2, {"mode": "NONE"}, CapturedRunner),
    (1, {"mode": "DYNAMO_TRACE_ONCE"}, CompiledRunner),
    (1, {"mode": "STOCK_TORCH_COMPILE", **EAGER}, GeneratedRunner),
    (1, {"custom_ops": ["none"], **EAGER}, GeneratedRunner),
]


def answer(path: Path, level: int, compilation: dict[str, Any]) -> tuple[type, list[int]]:
    settings = {"optimization_level": level, "compilation_config": compilation or None}
    with LLM(str(path), dtype="float32", max_model_len=64, **settings) as llm:
        params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
        (output,) = llm.generate({"prompt_token_ids": [5, 6, 7]}, params, use_tqdm=False)
        return type(llm._loaded.engine.runner), list(output.outputs[0].token_ids)


@pytest.mark.parametrize(("level", "compilation", "kind"), CASES)
def test_every_setting_gets_its_runner_and_the_same_answer(
    tiny_model: Path, level: int, compilation: dict[str, Any], kind: type[EagerRunner]
) -> None:
    runner, tokens = answer(tiny_model, level, compilation)
    assert runner is kind
    assert tokens == answer(tiny_model, 0, {})[1]


@pytest.mark.parametrize(
    ("level", "compilation", "kind"), [(1, {}, GeneratedRunner), (2, {"mode": "NONE"}, EagerRunner)]
)
def test_an_op_outside_the_vocabulary_costs_speed_and_not_the_start(
    tiny_model: Path,
    level: int,
    compilation: dict[str, Any],
    kind: type[EagerRunner],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def rows(self: nn.Module, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_up_proj(x))).sin()

    monkeypatch.setattr(activation.GatedMLP, "_rows", rows)
    monkeypatch.setenv("OZONE_DISABLE_COMPILE_CACHE", "1")
    with caplog.at_level(logging.WARNING, logger="ozone"):
        runner, tokens = answer(tiny_model, level, compilation)
    assert runner is kind
    assert tokens == answer(tiny_model, 0, {})[1]
    (warning,) = [message for message in caplog.messages if "vocabulary" in message]
    assert "aten.sin" in warning and "cudagraph_mode is lowered to NONE" in warning
