"""The passes: how many places each one finds in known models, which give the same bits afterwards."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from quantized_cases import FORMATS, tiny_llama
from quantized_formats import save_quantized
from step_harness import (
    BLOCK_SIZE,
    MAX_REQUESTS,
    MAX_TOKENS,
    bound,
    eager,
    fill,
    make_inputs,
    make_step,
    settings,
)
from tiny_checkpoints import save, tiny_model
from torch import fx

from ozone.compilation.compiler import compile_traced
from ozone.compilation.lowering import Capacity
from ozone.compilation.pass_manager import PassReport, run_passes
from ozone.compilation.passes import FUSIONS
from ozone.compilation.passes.noops import eliminate_noops
from ozone.compilation.pieces import op_name, split
from ozone.compilation.step import Step
from ozone.compilation.trace import trace
from ozone.compilation.traced import Traced
from ozone.config.schema import CompilationConfig, CUDAGraphMode, PassConfig
from ozone.engine.input_buffers import BatchCounts
from ozone.ops.registry import NATIVE, OPS

pytestmark = pytest.mark.skipif(not NATIVE, reason="quantized linears are what there is natively")

INPUTS = make_inputs()
FLAGS = [fusion.flag for fusion in FUSIONS]
LEVEL = (
    "fuse_add_rms_norm",
    "fuse_norm_quant",
    "fuse_act_quant",
    "fuse_act_padding",
    "fuse_rope_kvcache",
)
Places = dict[str, int]
Open = Callable[[str], tuple[Step, Traced]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A model by name, traced once for all tests."""
    known: dict[str, tuple[Step, Traced]] = {}

    def open_(name: str) -> tuple[Step, Traced]:
        if name not in known:
            folder = tmp_path_factory.mktemp("model") / name
            if name in FORMATS:
                save_quantized(tiny_llama(), folder, FORMATS[name])
            elif name != "smollm2":
                save(tiny_model(name), folder, "safetensors")
            step = make_step(folder if folder.exists() else name)
            known[name] = step, trace(step, INPUTS)
        return known[name]

    return open_


def passes(*flags: str, **changes: Any) -> CompilationConfig:
    return settings(pass_config=PassConfig(**dict.fromkeys(flags, True), **changes))


def rewrite(traced: Traced, config: CompilationConfig, last: int = MAX_TOKENS) -> list[PassReport]:
    return run_passes(copy.deepcopy(traced.module).graph, config, 1, last)


def places(reports: list[PassReport]) -> Places:
    return {report.flag: report.places for report in reports if report.places}


# 2 layers: a norm before qkv and one before gate and up each, and the last one. The first has nothing to add.
QUANTIZED: Places = {
    "fuse_add_rms_norm": 4,
    "fuse_norm_quant": 4,
    "fuse_act_quant": 2,
    "fuse_attn_quant": 2,
    "fuse_rope_kvcache": 2,
}
# Each flag alone; what is not listed finds nothing.
ALONE: dict[str, Places] = {
    # 30 layers. The last norm is not quantized here.
    "smollm2": {
        "fuse_add_rms_norm": 60,
        "fuse_norm_quant": 60,
        "fuse_act_quant": 30,
        "fuse_attn_quant": 30,
        "fuse_rope_kvcache": 30,
    },
    **dict.fromkeys(("fp8_static", "fp8_dynamic", "int8", "int8_static"), QUANTIZED),
    # Neither 192 nor 320 columns are whole blocks of 128: a pad stands before each quantization.
    "fp8_block": {"fuse_add_rms_norm": 4, "fuse_act_padding": 4, "fuse_rope_kvcache": 2},
    # q, k and v, gate and up have scales of their own, and one norm is quantized several times.
    "fp8_static_apart": {
        "fuse_add_rms_norm": 4,
        "fuse_act_quant": 2,
        "fuse_attn_quant": 2,
        "fuse_rope_kvcache": 2,
    },
    # bfloat16: nothing is quantized.
    "llama": {"fuse_add_rms_norm": 6, "fuse_rope_kvcache": 3},
    "qwen3": {
        "fuse_add_rms_norm": 6,
        "enable_qk_norm_rope_fusion": 3,
        "fuse_qk_norm_rope_kvcache": 3,
        "fuse_rope_kvcache": 3,
    },
    # A norm before and one behind each block: the sum goes into the former.
    "gemma3": {
        "fuse_add_rms_norm": 16,
        "enable_qk_norm_rope_fusion": 8,
        "fuse_qk_norm_rope_kvcache": 8,
        "fuse_rope_kvcache": 8,
    },
}


@pytest.mark.parametrize("name", ALONE)
def test_each_fusion_finds_its_places_and_none_where_it_is_off(opened: Open, name: str) -> None:
    _, traced = opened(name)
    for flag in FLAGS:
        expected = ALONE[name].get(flag)
        reports = rewrite(traced, passes(flag))
        assert places(reports) == ({flag: expected} if expected else {}), flag
        assert [report.flag for report in reports] == ["eliminate_noops", flag]
        assert all((report.reason is None) == (report.places > 0) for report in reports)
    assert places(rewrite(traced, passes())) == {}
    assert places(rewrite(traced, passes(*LEVEL))) == {
        flag: count for flag, count in ALONE[name].items() if flag in LEVEL
    }


def test_fusions_that_take_the_same_ops_take_turns(opened: Open) -> None:
    _, traced = opened("qwen3")
    assert places(rewrite(traced, passes(*FLAGS))) == {"fuse_add_rms_norm": 6, "fuse_qk_norm_rope_kvcache": 3}
    # What the one has left is taken by the other.
    both = rewrite(traced, passes("enable_qk_norm_rope_fusion", "fuse_rope_kvcache"))
    assert places(both) == {"enable_qk_norm_rope_fusion": 3, "fuse_rope_kvcache": 3}


@pytest.mark.parametrize("name", ["smollm2", "fp8_static", "fp8_block", "int8", "qwen3", "gemma3"])
@pytest.mark.parametrize(
    "flags",
    [LEVEL, FLAGS, ("enable_qk_norm_rope_fusion", "fuse_rope_kvcache"), ("enable_qk_norm_rope_fusion",)],
    ids=["level", "all", "both", "norm_rope"],
)
def test_the_fused_model_gives_the_bits_of_the_model(opened: Open, name: str, flags: tuple[str, ...]) -> None:
    step, traced = opened(name)
    programs = compile_traced(traced, step, INPUTS, passes(*flags), Capacity(MAX_TOKENS, MAX_REQUESTS))
    assert {report.flag for report in programs[0].passes} == {"eliminate_noops", *flags}
    compiled = bound(programs, step, INPUTS)
    for lengths in ([1], [1] * 8, [17], [5, 1, 40, 2], [8, 56], [64]):
        fill(INPUTS, lengths)
        expected = eager(step, INPUTS, sum(lengths), len(lengths))
        for cache in step.kv_caches:
            cache.keys.zero_()
            cache.values.zero_()
        assert torch.equal(compiled.hidden(BatchCounts(sum(lengths), len(lengths), 1)), expected), lengths


def test_the_rotary_fusions_end_where_they_are_told_to(opened: Open) -> None:
    _, traced = opened("qwen3")
    flags = ("fuse_rope_kvcache", "fuse_qk_norm_rope_kvcache")
    config = passes(*flags, rope_kvcache_fusion_max_token_num=32)
    assert places(rewrite(traced, config, last=32)) == {"fuse_qk_norm_rope_kvcache": 3}
    beyond = rewrite(traced, config, last=33)
    assert places(beyond) == {}
    assert {report.reason for report in beyond if report.flag in flags} == {"on up to 32 tokens"}


def test_an_op_at_which_the_graph_is_split_is_not_fused_away(opened: Open) -> None:
    _, traced = opened("llama")
    config = settings(splitting_ops=("attention", "kv_write"), pass_config=PassConfig(fuse_rope_kvcache=True))
    assert rewrite(traced, config)[-1].reason == "the graph is split at kv_write"


def test_attention_that_quantizes_is_what_the_graph_is_split_at(opened: Open) -> None:
    _, traced = opened("fp8_dynamic")
    module, config = copy.deepcopy(traced.module), passes("fuse_attn_quant")
    assert places(run_passes(module.graph, config, 1, MAX_TOKENS)) == {"fuse_attn_quant": 2}
    pieces = split(module.graph, config.splitting_ops)
    assert [piece.splits for piece in pieces] == [False, True] * 2 + [False]
    for piece in pieces:
        names = [op_name(node) for node in piece.nodes]
        # Codes and scales are taken out of the result where it is made.
        assert (
            names == ["attention_quantize_fp8_token", None, None]
            if piece.splits
            else "attention" not in names
        )


@pytest.mark.parametrize("name", ["llama", "smollm2", "fp8_static", "int8"])
def test_a_linear_is_one_in_every_format(opened: Open, name: str) -> None:
    step, traced = opened(name)
    names = [op_name(node) for node in traced.module.graph.nodes]
    linears = [found for found in names if found and found.startswith("linear")]
    assert len(linears) == 4 * len(step.model.layers)  # qkv, output, gate and up, down
    pieces = split(traced.module.graph, ("linear",))
    assert [op_name(piece.nodes[0]) for piece in pieces if piece.splits] == linears


@pytest.mark.parametrize("name", ["smollm2", "fp8_static", "fp8_dynamic", "int8", "int8_static"])
@pytest.mark.parametrize("splitting_ops", [("attention",), ()])
def test_attention_that_quantizes_joins_long_contexts(
    opened: Open, name: str, splitting_ops: tuple[str, ...]
) -> None:
    """300 positions are two chunks; beside them one that decodes in one chunk, and a prompt."""
    step, traced = opened(name)
    inputs = make_inputs()._replace(block_tables=torch.zeros(MAX_REQUESTS, 24, dtype=torch.int32))
    config = replace(passes("fuse_attn_quant"), splitting_ops=splitting_ops)
    programs = compile_traced(traced, step, inputs, config, Capacity(MAX_TOKENS, MAX_REQUESTS))
    assert places(list(programs[0].passes))["fuse_attn_quant"] == ALONE[name]["fuse_attn_quant"]
    compiled = bound(programs, step, inputs)
    positions = [299, 20, *range(9)]
    inputs.token_ids[:11] = torch.arange(11) * 7
    inputs.positions[:11] = torch.tensor(positions)
    inputs.block_tables[0, :19] = torch.arange(19)
    inputs.block_tables[1, :2] = torch.tensor([20, 21])
    inputs.block_tables[2, 0] = 22
    blocks = torch.tensor([18, 21, *[22] * 9])
    inputs.slot_mapping[:11] = blocks * BLOCK_SIZE + torch.tensor(positions) % BLOCK_SIZE
    inputs.query_start_loc[:4] = torch.tensor([0, 1, 2, 11])
    inputs.seq_lens[:3] = torch.tensor([300, 21, 9])
    generator = torch.Generator().manual_seed(0)
    for cache in step.kv_caches:
        for part in (cache.keys, cache.values):
            part.copy_(torch.randn(part.shape, generator=generator))
    expected = eager(step, inputs, 11, 3)
    assert expected.isfinite().all()
    for mode in (CUDAGraphMode.NONE, CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL):
        assert torch.equal(compiled.hidden(BatchCounts(11, 3, 3), mode), expected), mode


def test_a_fusion_that_finds_nothing_says_why(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    _, traced = opened("llama")
    with caplog.at_level(logging.INFO, logger="ozone"):
        flags = ("fuse_act_padding", "fuse_norm_quant", "fuse_attn_quant", "enable_qk_norm_rope_fusion")
        reports = rewrite(traced, passes(*flags))
    reasons = {report.flag: str(report.reason) for report in reports}
    assert reasons["fuse_act_padding"] == "the graph has no pad"
    assert "the graph has no quantize_fp8_group" in reasons["fuse_norm_quant"]
    # The output projection takes attention's result as it is.
    assert reasons["fuse_attn_quant"].startswith("the graph has no quantize_fp8_group, quantize_fp8_static, ")
    assert "do not follow each other" in reasons["enable_qk_norm_rope_fusion"]
    (line,) = caplog.messages
    assert line.startswith("nothing to fuse for 1 to 64 tokens: fuse_act_padding (the graph has no pad); ")


def test_a_disabled_custom_op_is_named_as_the_reason(opened: Open) -> None:
    _, traced = opened("llama")
    for flag in ("fuse_norm_quant", "fuse_attn_quant"):
        config = settings(custom_ops=("all", "-quantize"), pass_config=PassConfig(**{flag: True}))
        assert rewrite(traced, config)[-1].reason == "quantize is no custom op"


def test_rewriting_leaves_the_traced_graph_alone_and_no_dead_ops(opened: Open) -> None:
    _, traced = opened("smollm2")
    before = traced.module.code
    module = copy.deepcopy(traced.module)
    run_passes(module.graph, passes(*FLAGS), 1, MAX_TOKENS)
    module.graph.lint()
    assert traced.module.code == before
    left = {node.target for node in module.graph.nodes}
    assert not left & {
        OPS[name].node for name in ("add", "rms_norm", "silu_and_mul", "rotary_embedding", "kv_write")
    }
    assert all(node.users for node in module.graph.nodes if node.op == "call_function")


def test_what_changes_nothing_is_dropped() -> None:
    x = torch.randn(4, 6, dtype=torch.bfloat16)

    def model(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (whole,) = torch.split(x.view(4, 6), [6], dim=1)
        padded = OPS["pad"].node(whole[:, 0:6], 3)
        other = x.view(6, 4), x[:, 1:5], OPS["pad"].node(x, 4), x.t().t(), x.to(torch.float32)
        return padded, *other

    from torch.fx.experimental.proxy_tensor import make_fx

    module: fx.GraphModule = make_fx(model)(x)
    expected = model(x)
    assert eliminate_noops(module.graph) == 4
    module.graph.eliminate_dead_code()
    module.recompile()
    assert "split" not in module.code
    assert all(map(torch.equal, module(x), expected))
