"""Every cell of the specification's table holds, where its condition holds and where it does not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest

from ozone.config.levels import TABLE
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.ranges import compile_ranges, compiled_for
from ozone.config.schema import OzoneConfig
from ozone.config.values import plain

Resolved = Callable[..., OzoneConfig]

# The table of the specification, as it stands there.
SPECIFICATION = """
| setting | `-O0` | `-O1` | `-O2` (default) | `-O3` |
|---|---|---|---|---|
| `-cc.mode` | `NONE` | `VLLM_COMPILE` | `VLLM_COMPILE` | `VLLM_COMPILE` |
| `-cc.custom_ops` | `["none"]` (follows from `mode=NONE`) | the platform's default | the platform's default | the platform's default |
| `-cc.cudagraph_mode` | `NONE` | `PIECEWISE` | `FULL_AND_PIECEWISE` | `FULL_AND_PIECEWISE` |
| `-cc.pass_config.fuse_norm_quant` | False | on (1) | on (1) | on (1) |
| `-cc.pass_config.fuse_act_quant` | False | on (1) | on (1) | on (1) |
| `-cc.pass_config.fuse_act_padding` | False | on (2) | on (2) | on (2) |
| `-cc.pass_config.fuse_rope_kvcache` | False | on (2) | on (2) | on (2) |
| `-cc.pass_config.fuse_allreduce_rms` | False | False | on (3) | on (3) |
| `--kernel-config.enable_flashinfer_autotune` | False | True | True | True |
"""  # noqa: E501
# What it leaves to us: fusions beyond the documented ones, where they pay.
BEYOND = """
| `-cc.pass_config.fuse_add_rms_norm` | False | on (4) | on (4) | on (4) |
| `-cc.pass_config.enable_qk_norm_rope_fusion` | False | on (5) | on (5) | on (5) |
"""

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in [*SPECIFICATION.strip().splitlines()[2:], *BEYOND.strip().splitlines()]
]
CELLS = [
    (row[0].strip("`"), level, row[1 + level].split(" (follows")[0].strip("`"))
    for row in ROWS
    for level in range(4)
]
CONDITIONAL = [(flag, level, cell) for flag, level, cell in CELLS if cell.startswith("on (")]


def key_of(flag: str) -> str:
    return flag.replace("-cc.", "compilation_config.").replace("--kernel-config.", "kernel_config.")


def test_the_table_has_the_rows_of_the_specification_and_those_beyond_it() -> None:
    assert set(TABLE) == {key_of(row[0].strip("`")) for row in ROWS}


@pytest.mark.parametrize(("flag", "level", "cell"), CELLS)
def test_cell_where_its_condition_holds(
    resolved: Resolved, small_model: ModelConfig, flag: str, level: int, cell: str
) -> None:
    words = [f"-O{level}"]
    if cell == "on (3)":
        words.append("--tensor-parallel-size=2")
    model = dataclasses.replace(small_model, qk_norm=True)
    setting = resolved(*words, model=model).settings[key_of(flag)]
    expected = {
        '["none"]': ["none"],
        "the platform's default": ["all"],
        "False": False,
        "True": True,
    }.get(cell, True if cell.startswith("on (") else cell)
    assert plain(setting.value) == expected
    assert setting.origin == ("platform" if cell == "the platform's default" else f"-O{level}")
    assert setting.reason


@pytest.mark.parametrize(("flag", "level", "cell"), CONDITIONAL)
def test_cell_where_its_condition_does_not_hold(
    resolved: Resolved, machine: PlatformFacts, small_model: ModelConfig, flag: str, level: int, cell: str
) -> None:
    key = key_of(flag)
    if cell in ("on (1)", "on (4)"):
        setting = resolved(f"-O{level}", "-cc.custom_ops=none").settings[key]
        assert (setting.value, setting.origin) == (False, "required by compilation_config.custom_ops")
        assert re.search("is (a|not a) custom op", setting.reason)
    elif cell == "on (5)":
        setting = resolved(f"-O{level}", model=small_model).settings[key]
        assert (setting.value, setting.origin) == (False, "model")
    elif cell == "on (2)":
        elsewhere = dataclasses.replace(machine, name="elsewhere")
        words = (f"-O{level}", "-cc.mode=VLLM_COMPILE", "-cc.custom_ops=all")
        setting = resolved(*words, platform=elsewhere).settings[key]
        assert (setting.value, setting.origin) == (False, "platform")
        assert "kernel" in setting.reason
    else:
        setting = resolved(f"-O{level}").settings[key]
        assert (setting.value, setting.origin) == (False, f"-O{level}")
        assert "tensor_parallel_size > 1" in setting.reason


def test_a_platform_with_a_build_of_the_fused_kernel_gets_the_fusion(
    resolved: Resolved, machine: PlatformFacts
) -> None:
    elsewhere = dataclasses.replace(machine, name="elsewhere", kernels=frozenset({"rope_kvcache"}))
    words = ("-O1", "-cc.custom_ops=all")
    passes = resolved(*words, platform=elsewhere).compilation.pass_config
    assert passes.fuse_rope_kvcache
    assert not passes.fuse_act_padding


@pytest.mark.parametrize(
    ("custom_ops", "norm", "act"),
    [
        ("none,+rms_norm", True, False),
        ("none,+silu_and_mul", False, True),
        ("none,+quantize", True, True),
        ("none,+quant_fp8", True, True),
        ("all,-rms_norm,-quantize", False, True),
        ("-quantize", True, True),
    ],
)
def test_one_custom_op_of_the_two_is_enough(
    resolved: Resolved, custom_ops: str, norm: bool, act: bool
) -> None:
    passes = resolved(f"-cc.custom_ops={custom_ops}").compilation.pass_config
    assert (passes.fuse_norm_quant, passes.fuse_act_quant) == (norm, act)


def test_norms_of_heads_are_fused_where_both_of_their_ops_are_custom(
    resolved: Resolved, small_model: ModelConfig
) -> None:
    model = dataclasses.replace(small_model, qk_norm=True)
    for words in ("-rms_norm", "-rotary_embedding"):
        passes = resolved(f"-cc.custom_ops={words}", model=model).compilation.pass_config
        assert not passes.enable_qk_norm_rope_fusion


def test_the_activation_that_counts_is_the_models_own(resolved: Resolved, small_model: ModelConfig) -> None:
    gelu = dataclasses.replace(small_model, hidden_act="gelu_pytorch_tanh")
    words = ("-cc.custom_ops=none,+gelu_and_mul",)
    assert resolved(*words, model=gelu).compilation.pass_config.fuse_act_quant
    assert not resolved(*words, model=small_model).compilation.pass_config.fuse_act_quant


def test_level_two_is_the_default(resolved: Resolved) -> None:
    config = resolved()
    assert config.optimization_level == 2
    assert config.settings["optimization_level"].origin == "default"
    assert config.settings["compilation_config.mode"].origin == "-O2"


def test_level_three_is_today_level_two(resolved: Resolved) -> None:
    two, three = resolved("-O2"), resolved("-O3")
    assert (three.compilation, three.kernel) == (two.compilation, two.kernel)


def test_level_zero_compiles_for_no_range(resolved: Resolved) -> None:
    config = resolved("-O0")
    assert compile_ranges(config.compilation.compile_ranges_endpoints, 512) == ()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_one_compile_range_where_every_fusion_pays_at_every_count(resolved: Resolved, level: int) -> None:
    config = resolved(f"-O{level}", "--max-num-batched-tokens=1000")
    setting = config.settings["compilation_config.compile_ranges_endpoints"]
    assert (setting.value, setting.origin) == ((1000,), f"-O{level}")
    assert compile_ranges(setting.value, 1000) == ((1, 1000),)


def test_level_two_adds_an_endpoint_where_a_fusion_stops_paying(
    resolved: Resolved, small_model: ModelConfig
) -> None:
    # 1 MiB of rows of 32 bfloat16 are 16384 tokens; a hundredth of that are 163.
    words = ("--tensor-parallel-size=2", "-cc.pass_config.fi_allreduce_fusion_max_size_mb=0.01")
    assert resolved("-O2", *words, model=small_model).compilation.compile_ranges_endpoints == (163, 512)
    assert resolved("-O1", *words, model=small_model).compilation.compile_ranges_endpoints == (512,)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_bound_on_the_rope_fusion_is_an_endpoint_from_level_one(resolved: Resolved, level: int) -> None:
    config = resolved(f"-O{level}", "-cc.pass_config.rope_kvcache_fusion_max_token_num=256")
    endpoints = config.compilation.compile_ranges_endpoints
    assert endpoints == (256, 512)
    assert compile_ranges(endpoints, 512) == ((1, 256), (257, 512))


def test_a_bound_on_a_fusion_that_is_off_is_no_endpoint(resolved: Resolved) -> None:
    config = resolved(
        "-cc.pass_config.rope_kvcache_fusion_max_token_num=256", "-cc.pass_config.fuse_rope_kvcache=False"
    )
    assert config.compilation.compile_ranges_endpoints == (512,)


def test_endpoints_of_the_user_cut_the_range_and_need_not_name_its_end() -> None:
    assert compile_ranges((8, 64), 512) == ((1, 8), (9, 64), (65, 512))
    assert compile_ranges((64, 8, 9999), 512) == ((1, 8), (9, 64), (65, 512))


def test_exact_sizes_come_behind_the_ranges_that_they_lie_in(resolved: Resolved) -> None:
    config = resolved("-O1", "-cc.compile_sizes=64,4,4,1,900", "-cc.compile_ranges_endpoints=1,8").compilation
    assert compiled_for(config, 512) == ((1, 1), (2, 8), (9, 512), (4, 4), (64, 64))
    for words in ("-O0 -cc.compile_sizes=4", "-O1 -cc.mode=DYNAMO_TRACE_ONCE -cc.compile_sizes=4"):
        assert compiled_for(resolved(*words.split()).compilation, 512) == ((1, 512),)


def test_capture_sizes_grow_to_the_number_of_requests(resolved: Resolved) -> None:
    compilation = resolved("-O1", "--max-num-seqs=20").compilation
    assert compilation.cudagraph_capture_sizes == (1, 2, 4, 8, 16, 20)
    assert compilation.max_cudagraph_capture_size == 20
    assert resolved("-O0").compilation.cudagraph_capture_sizes == ()


def test_capture_sizes_follow_a_maximum_and_the_maximum_follows_sizes(resolved: Resolved) -> None:
    assert resolved("-cc.max_cudagraph_capture_size=3").compilation.cudagraph_capture_sizes == (1, 2, 3)
    assert resolved("-cc.cudagraph_capture_sizes=5,9").compilation.max_cudagraph_capture_size == 9


def test_no_origin_is_left_out_and_every_setting_has_a_reason(resolved: Resolved) -> None:
    for setting in resolved().settings.values():
        assert setting.origin in {"user", "-O2", "platform", "model", "default"} or setting.origin.startswith(
            "required by "
        )
        assert setting.reason
