"""A compiled step gives the bits of the model that it was made of, in pieces, for any batch."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from step_harness import MAX_REQUESTS, MAX_TOKENS, bound, eager, fill, make_inputs, make_step, settings

from ozone.compilation.compiled import CompiledStep
from ozone.compilation.compiler import compile_step
from ozone.compilation.failures import ForeignOpError
from ozone.compilation.lowering import Capacity, lower
from ozone.compilation.pieces import op_name, split
from ozone.compilation.step import Step, StepInputs
from ozone.compilation.trace import trace
from ozone.compilation.traced import Traced
from ozone.config.schema import CUDAGraphMode
from ozone.engine.input_buffers import BatchCounts
from ozone.engine.sampling_table import SamplingTable
from ozone.errors import ConfigError
from ozone.ops.registry import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs need the native library")

LAYERS = 30


@pytest.fixture(scope="module")
def step() -> Step:
    return make_step("smollm2")


@pytest.fixture(scope="module")
def inputs() -> StepInputs:
    return make_inputs()


@pytest.fixture(scope="module")
def traced(step: Step, inputs: StepInputs) -> Traced:
    return trace(step, inputs)


@pytest.mark.parametrize("splitting_ops", [("attention",), ("ozone::attention", "kv_write"), ()])
def test_every_batch_gets_the_bits_of_the_eager_model(
    step: Step, inputs: StepInputs, splitting_ops: tuple[str, ...]
) -> None:
    config = settings(splitting_ops=splitting_ops, compile_ranges_endpoints=(16, MAX_TOKENS))
    compiled = bound(compile_step(step, inputs, config, Capacity(MAX_TOKENS, MAX_REQUESTS)), step, inputs)
    for lengths in ([1], [1] * 8, [17], [5, 1, 40, 2], [8, 56], [64]):
        fill(inputs, lengths)
        expected = eager(step, inputs, sum(lengths), len(lengths))
        for mode in (CUDAGraphMode.NONE, CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL):
            hidden = compiled.hidden(BatchCounts(sum(lengths), len(lengths), 1), mode)
            assert torch.equal(hidden, expected), (lengths, mode)
            hidden.zero_()


@pytest.mark.parametrize("mode", [CUDAGraphMode.NONE, CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL])
def test_logits_and_tokens_come_with_a_step(step: Step, inputs: StepInputs, mode: CUDAGraphMode) -> None:
    programs = compile_step(step, inputs, settings(), Capacity(MAX_TOKENS, MAX_REQUESTS))
    indices = torch.zeros(MAX_TOKENS, dtype=torch.int64)
    compiled = CompiledStep(programs, step, inputs, indices, MAX_REQUESTS)
    tables = [SamplingTable(MAX_REQUESTS), SamplingTable(MAX_REQUESTS)]  # rows of zeros are greedy
    for turn, lengths in enumerate(([1], [1] * 8, [5, 1, 40, 2], [64])):
        fill(inputs, lengths)
        last = torch.tensor(lengths).cumsum(0) - 1
        indices[: len(last)] = last
        with torch.inference_mode():
            hidden = eager(step, inputs, sum(lengths), len(lengths))
            expected = step.model.compute_logits(hidden[last]).numpy()
        counts = BatchCounts(sum(lengths), len(lengths), len(lengths))
        np.testing.assert_array_equal(compiled.logits(counts, mode), expected)
        table = tables[turn % 2]
        table.token_ids[:] = -1
        np.testing.assert_array_equal(compiled.logits(counts, mode, table), expected)
        assert table.chosen
        assert table.token_ids[: len(lengths)].tolist() == expected.argmax(1).tolist()
        assert table.token_ids[len(lengths) :].tolist() == [-1] * (MAX_REQUESTS - len(lengths))


def test_pieces_lie_between_the_splitting_ops(traced: Traced) -> None:
    pieces = split(traced.module.graph, ["attention"])
    assert [piece.splits for piece in pieces] == [False, True] * LAYERS + [False]
    assert all(op_name(piece.nodes[0]) == "attention" for piece in pieces if piece.splits)
    assert sum(len(piece.nodes) for piece in pieces) == sum(
        node.op not in ("placeholder", "output") for node in traced.module.graph.nodes
    )


def test_a_splitting_op_that_does_not_exist_is_a_mistake(traced: Traced) -> None:
    with pytest.raises(ConfigError, match=r"-cc.splitting_ops: there is no op atention"):
        split(traced.module.graph, ["atention"])


def test_a_traced_graph_knows_its_arguments_and_no_number_of_tokens(traced: Traced) -> None:
    kinds = {argument.kind for argument in traced.arguments}
    assert kinds == {"size", "input", "constant"}
    names = [argument.name for argument in traced.arguments if argument.kind == "input"]
    assert sorted(names) == sorted(StepInputs._fields)
    targets = {node.target for node in traced.module.graph.nodes if node.op == "call_function"}
    assert torch.ops.aten._assert_scalar.default not in targets
    assert not traced.module.graph.find_nodes(op="call_method")


def test_writes_are_kept_though_nobody_reads_their_result(traced: Traced) -> None:
    writes = traced.module.graph.find_nodes(op="call_function", target=torch.ops.ozone.kv_write.default)
    assert len(writes) == LAYERS


def test_an_op_outside_the_vocabulary_is_named(inputs: StepInputs) -> None:
    step = make_step("smollm2", "float32", ("none",))
    traced = trace(step, inputs)
    pieces = split(traced.module.graph, ["attention"])
    with pytest.raises(ForeignOpError, match=r"aten.* is no op of the vocabulary"):
        lower(traced, pieces, step, inputs, Capacity(MAX_TOKENS, MAX_REQUESTS))


_IMPORTS = """
import sys
from ozone import LLM, SamplingParams
with LLM(optimization_level=1, max_model_len=128) as llm:
    llm.generate("Hello", SamplingParams(max_tokens=2), use_tqdm=False)
assert "torch._dynamo" in sys.modules
compilers = {"torch._inductor." + name for name in ("compile_fx", "graph", "pattern_matcher", "scheduler")}
print(sorted(compilers & sys.modules.keys()))
"""


def test_the_default_level_never_imports_what_generates_code() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _IMPORTS],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OZONE_DISABLE_COMPILE_CACHE": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("[]"), run.stdout
