"""Layers that repeat: the graph with copies is the one that tracing all of them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints as checkpoints
import torch
from compiled_case import Case, make_case
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from ozone.compilation import trace as tracing
from ozone.compilation.repeated import kinds_of, plan_for, plan_of
from ozone.compilation.trace import trace
from ozone.compilation.traced import Traced
from ozone.ops.registry import NATIVE

needs_native = pytest.mark.skipif(not NATIVE, reason="traced models have native ops")

FAMILIES = ("llama_biases", "mistral", "qwen2_sliding", "qwen3", "gemma3_linear_rope")
LAYERS = {"gemma3_linear_rope": 27}  # its period is six layers


@given(st.lists(st.integers(0, 2), max_size=24))
def test_a_plan_says_what_all_layers_are(kinds: list[int]) -> None:
    plan = plan_for(kinds)
    if plan is None:
        return
    left_out = {first + i for first in plan.copied for i in range(plan.period)}
    assert left_out and left_out.isdisjoint(plan.layers)
    assert sorted(left_out | set(plan.layers)) == list(range(len(kinds)))
    assert plan.first > 0
    copied = plan.first + plan.period
    for first in (plan.first, *plan.copied, plan.copied[-1] + plan.period):
        for i in range(plan.period):
            assert kinds[first + i] == kinds[copied + i]
    assert set(range(plan.first + 2 * plan.period)) <= set(plan.layers)
    assert set(range(plan.copied[-1] + plan.period, plan.copied[-1] + 2 * plan.period)) <= set(plan.layers)


def test_as_little_as_possible_is_traced() -> None:
    plan = plan_for([0] * 30)
    assert plan is not None and (plan.layers, plan.period) == ((0, 1, 2, 29), 1)
    plan = plan_for([0, 1, *[2, 2, 3] * 6, 4])
    assert plan is not None and (plan.first, plan.period) == (2, 3)
    assert plan.layers == (0, 1, 2, 3, 4, 5, 6, 7, 17, 18, 19, 20)
    assert plan_for([0] * 4) is None
    assert plan_for(range(40)) is None
    assert plan_for([]) is None


def make(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Case:
    shape = checkpoints.GEMMA if name.startswith("gemma") else checkpoints.SHAPE
    monkeypatch.setitem(shape, "num_hidden_layers", LAYERS.get(name, 8))
    checkpoints.save(checkpoints.tiny_model(name), tmp_path, "safetensors")
    return make_case(tmp_path, **settings)


def lines(traced: Traced) -> list[str]:
    """A graph with its arguments by name, in a form that does not depend on their order."""
    names: dict[fx.Node, str] = {}
    told = []
    graph = traced.module.graph
    for node, argument in zip(graph.find_nodes(op="placeholder"), traced.arguments, strict=True):
        value = node.meta["val"]
        shape = (str(value.shape), value.dtype, value.stride()) if isinstance(value, torch.Tensor) else ""
        names[node] = f"{argument.kind} {argument.name} {shape}"
    for node in graph.nodes:
        if node.op != "placeholder":
            args = fx.node.map_arg((node.args, node.kwargs), names.__getitem__)
            names[node] = f"%{len(told)}"
            told.append(f"{node.op} {node.target} {args} {node.meta.get('val')}")
    return told


@needs_native
@pytest.mark.parametrize("ops", ["all", "none"])
@pytest.mark.parametrize("name", FAMILIES)
def test_copies_are_what_tracing_gives(
    name: str, ops: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(name, tmp_path, monkeypatch, custom_ops=(ops,))
    layers = case.step.model.layers
    plan = plan_of(case.step)
    assert plan is not None and len(plan.layers) < len(layers)
    some = trace(case.step, case.inputs)
    assert case.step.model.layers is layers
    monkeypatch.setattr(tracing, "plan_of", lambda _: None)
    every = trace(case.step, case.inputs)
    assert lines(some) == lines(every)
    told = {(argument.kind, argument.name) for argument in every.arguments}
    assert {(argument.kind, argument.name) for argument in some.arguments} == told
    some.module.graph.lint()


@needs_native
def test_what_differs_is_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make("llama", tmp_path, monkeypatch)
    model, caches = case.step.model, case.step.kv_caches
    assert kinds_of(model.layers, caches) == [0] * 8
    model.layers[3].self_attn.attention.window = 8
    model.layers[4].mlp.down_proj.weight = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    model.layers[5].mlp.up_proj = model.layers[5].mlp.gate_up_proj
    model.layers[6].mlp.gate_up_proj.names = ("other",)
    assert kinds_of(model.layers, caches) == [0, 0, 0, 3, 4, 5, 6, 0]
    # Whoever shares what others do not is another one too.
    model.layers[1].input_layernorm.weight = model.layers[2].input_layernorm.weight
    model.layers[7].self_attn.rope = None
    assert kinds_of(model.layers, caches) == [0, 1, 1, 3, 4, 5, 6, 7]


@needs_native
def test_what_does_not_repeat_is_traced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that look alike and are not: found when the third does not follow from the second."""
    case = make("llama", tmp_path, monkeypatch)
    plan = plan_of(case.step)
    for layer, difference in ((7, 8), (2, 9), (1, 10)):
        case.step.model.layers[layer].self_attn.attention.window = difference
        monkeypatch.setattr(tracing, "plan_of", lambda _: plan)
        some = trace(case.step, case.inputs)
        monkeypatch.setattr(tracing, "plan_of", lambda _: None)
        assert lines(some) == lines(trace(case.step, case.inputs))
