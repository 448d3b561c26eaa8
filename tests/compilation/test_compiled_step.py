"""A compiled step gives the bits of the model that it was made of, in pieces, for any batch."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import torch

from ozone.compilation.compiled import CompiledStep
from ozone.compilation.compiler import compile_step
from ozone.compilation.lowering import Capacity, ForeignOpError, lower
from ozone.compilation.pieces import op_name, split
from ozone.compilation.step import Step, StepInputs
from ozone.compilation.trace import Traced, trace
from ozone.config.schema import CompilationConfig, CompilationMode, CUDAGraphMode
from ozone.engine.input_buffers import BatchCounts
from ozone.errors import ConfigError
from ozone.graphs.eager_runner import allocate_kv_caches
from ozone.models import build_model, load_weights
from ozone.ops.choice import OpChoice
from ozone.ops.registry import NATIVE
from ozone.weights.model_files import open_model

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs need the native library")

MAX_TOKENS, MAX_REQUESTS, NUM_BLOCKS, BLOCK_SIZE, LAYERS = 64, 8, 32, 16, 30


def make_step(dtype: str, custom_ops: str) -> Step:
    files = open_model("smollm2")
    op = OpChoice((custom_ops,), compiled=True)
    model = build_model(files.config, dtype=getattr(torch, dtype), max_model_len=256, op=op)
    load_weights(model, files.open_weights(), num_threads=2)
    return Step(model, allocate_kv_caches(files.config, BLOCK_SIZE, NUM_BLOCKS, dtype))


@pytest.fixture(scope="module")
def step() -> Step:
    return make_step("bfloat16", "all")


@pytest.fixture(scope="module")
def inputs() -> StepInputs:
    def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    return StepInputs(
        token_ids=zeros(MAX_TOKENS),
        positions=zeros(MAX_TOKENS),
        slot_mapping=zeros(MAX_TOKENS, dtype=torch.int64),
        block_tables=zeros(MAX_REQUESTS, 4),
        query_start_loc=zeros(MAX_REQUESTS + 1),
        seq_lens=zeros(MAX_REQUESTS),
    )


@pytest.fixture(scope="module")
def traced(step: Step, inputs: StepInputs) -> Traced:
    return trace(step, inputs)


def settings(**changes: object) -> CompilationConfig:
    return CompilationConfig(
        **{
            "mode": CompilationMode.VLLM_COMPILE,
            "splitting_ops": ("attention",),
            "compile_ranges_endpoints": (MAX_TOKENS,),
            **changes,
        }
    )


def fill(inputs: StepInputs, lengths: list[int]) -> None:
    """New requests of so many tokens each, in blocks of their own."""
    blocks = random.Random(0).sample(range(NUM_BLOCKS), MAX_REQUESTS * 4)
    first = 0
    for request, length in enumerate(lengths):
        span, own = slice(first, first + length), torch.tensor(blocks[4 * request : 4 * request + 4])
        positions = torch.arange(length)
        inputs.token_ids[span] = positions * 7 + request
        inputs.positions[span] = positions
        inputs.slot_mapping[span] = own[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        inputs.block_tables[request] = own
        inputs.query_start_loc[request : request + 2] = torch.tensor([first, first + length])
        inputs.seq_lens[request] = length
        first += length


def eager(step: Step, inputs: StepInputs, tokens: int, requests: int) -> torch.Tensor:
    sizes = {"block_tables": requests, "query_start_loc": requests + 1, "seq_lens": requests}
    with torch.inference_mode():
        return step(*(x[: sizes.get(name, tokens)] for name, x in inputs._asdict().items()))


@pytest.mark.parametrize("splitting_ops", [("attention",), ("ozone::attention", "kv_write"), ()])
def test_every_batch_gets_the_bits_of_the_eager_model(
    step: Step, inputs: StepInputs, splitting_ops: tuple[str, ...]
) -> None:
    config = settings(splitting_ops=splitting_ops, compile_ranges_endpoints=(16, MAX_TOKENS))
    compiled = CompiledStep(
        compile_step(step, inputs, config, Capacity(MAX_TOKENS, MAX_REQUESTS)), step, inputs
    )
    for lengths in ([1], [1] * 8, [17], [5, 1, 40, 2], [8, 56], [64]):
        fill(inputs, lengths)
        expected = eager(step, inputs, sum(lengths), len(lengths))
        for mode in (CUDAGraphMode.NONE, CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL):
            hidden = compiled(BatchCounts(sum(lengths), len(lengths), 1), mode)
            assert torch.equal(hidden, expected), (lengths, mode)
            hidden.zero_()


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
    step = make_step("float32", "none")
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
