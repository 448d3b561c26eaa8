"""The rules of the specification: the user wins, needs are raised, wishes are lowered."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest

from ozone.config.args import EngineArgs
from ozone.config.compilation_settings import nearest_graph_mode
from ozone.config.custom_ops import CUSTOM_OPS, all_enabled, custom_op_enabled
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.resolve import resolve
from ozone.config.schema import CompilationMode, CUDAGraphMode, OzoneConfig
from ozone.errors import ConfigError

Resolved = Callable[..., OzoneConfig]

MODE = "compilation_config.mode"
OPS = "compilation_config.custom_ops"
GRAPHS = "compilation_config.cudagraph_mode"
PASS = "compilation_config.pass_config."


def said(config: OzoneConfig, key: str) -> tuple[object, str]:
    setting = config.settings[key]
    return setting.value, setting.origin


def test_what_the_user_switches_off_stays_off(resolved: Resolved) -> None:
    config = resolved("-O2", "-tp=2", "-cc.pass_config.fuse_allreduce_rms=False")
    assert said(config, PASS + "fuse_allreduce_rms") == (False, "user")


def test_a_user_value_that_equals_the_levels_is_still_the_users(resolved: Resolved) -> None:
    assert said(resolved("-O1", "-cc.cudagraph_mode=PIECEWISE"), GRAPHS) == (CUDAGraphMode.PIECEWISE, "user")
    assert said(resolved("-O2", "-O0", "-cc.mode=0"), MODE) == (CompilationMode.NONE, "user")


def test_piecewise_raises_the_mode(resolved: Resolved) -> None:
    config = resolved("-O0", "-cc.cudagraph_mode=PIECEWISE")
    assert said(config, GRAPHS) == (CUDAGraphMode.PIECEWISE, "user")
    assert said(config, MODE) == (CompilationMode.VLLM_COMPILE, f"required by {GRAPHS}")
    assert said(config, OPS) == (("none",), "-O0")
    assert config.compilation.splitting_ops
    assert config.notices == ()


def test_a_full_graph_without_compilation_raises_the_custom_ops(resolved: Resolved) -> None:
    config = resolved("-O0", "-cc.cudagraph_mode=FULL")
    assert said(config, GRAPHS) == (CUDAGraphMode.FULL, "user")
    assert said(config, MODE) == (CompilationMode.NONE, "-O0")
    assert said(config, OPS) == (("all",), f"required by {GRAPHS}")


@pytest.mark.parametrize(
    ("switch", "ops"),
    [
        ("fuse_norm_quant", ("none", "+rms_norm", "+quantize")),
        ("fuse_act_quant", ("none", "+silu_and_mul", "+quantize")),
        ("fuse_act_padding", ("none", "+rms_norm", "+pad")),
        ("fuse_rope_kvcache", ("none", "+rotary_embedding")),
        ("fuse_add_rms_norm", ("none", "+rms_norm")),
        ("enable_qk_norm_rope_fusion", ("none", "+rms_norm", "+rotary_embedding")),
        ("fuse_qk_norm_rope_kvcache", ("none", "+rms_norm", "+rotary_embedding")),
        ("fuse_attn_quant", ("none", "+quantize")),
    ],
)
def test_a_fusion_raises_the_mode_and_the_ops_that_it_matches_on(
    resolved: Resolved, switch: str, ops: tuple[str, ...]
) -> None:
    config = resolved("-O0", f"-cc.pass_config.{switch}=True")
    assert said(config, PASS + switch) == (True, "user")
    assert said(config, MODE) == (CompilationMode.VLLM_COMPILE, f"required by {PASS}{switch}")
    assert said(config, OPS) == (ops, f"required by {PASS}{switch}")


def test_two_fusions_raise_the_ops_of_both(resolved: Resolved) -> None:
    config = resolved("-O0", "-cc.pass_config.fuse_norm_quant=1", "-cc.pass_config.fuse_rope_kvcache=1")
    assert config.compilation.custom_ops == ("none", "+rms_norm", "+quantize", "+rotary_embedding")


def test_a_fusion_on_a_level_that_has_its_ops_raises_nothing(resolved: Resolved) -> None:
    config = resolved("-O1", "-cc.pass_config.fuse_attn_quant=True")
    assert said(config, OPS) == (("all",), "platform")
    assert said(config, MODE) == (CompilationMode.VLLM_COMPILE, "-O1")


def test_a_false_switch_needs_nothing(resolved: Resolved) -> None:
    config = resolved("-O0", "-cc.pass_config.fuse_norm_quant=False")
    assert said(config, MODE) == (CompilationMode.NONE, "-O0")


@pytest.mark.parametrize(
    ("words", "first", "second"),
    [
        ("-cc.mode=NONE -cc.cudagraph_mode=PIECEWISE", "-cc.mode=NONE", "-cc.cudagraph_mode=PIECEWISE"),
        (
            "-cc.mode=1 -cc.cudagraph_mode=FULL_AND_PIECEWISE",
            "-cc.mode=STOCK_TORCH_COMPILE",
            "FULL_AND_PIECEWISE",
        ),
        (
            "-cc.mode=0 -cc.pass_config.fuse_norm_quant=1",
            "-cc.mode=NONE",
            "-cc.pass_config.fuse_norm_quant=True",
        ),
        ("-cc.mode=DYNAMO_TRACE_ONCE -cc.pass_config.eliminate_noops=1", "-cc.mode", "eliminate_noops=True"),
        (
            "-cc.custom_ops=none -cc.pass_config.fuse_act_quant=1",
            "-cc.custom_ops=[none]",
            "fuse_act_quant=True",
        ),
        (
            "-cc.custom_ops=all,-rotary_embedding -cc.pass_config.fuse_rope_kvcache=1",
            "-cc.custom_ops=[all,-rotary_embedding]",
            "-cc.pass_config.fuse_rope_kvcache=True",
        ),
        (
            "-cc.splitting_ops=[] -cc.cudagraph_mode=PIECEWISE",
            "-cc.splitting_ops=[]",
            "-cc.cudagraph_mode=PIECEWISE",
        ),
        (
            "-cc.mode=0 -cc.custom_ops=none -cc.cudagraph_mode=FULL",
            "-cc.custom_ops=[none]",
            "-cc.cudagraph_mode=FULL",
        ),
        (
            "-cc.cudagraph_capture_sizes=1,2 -cc.max_cudagraph_capture_size=8",
            "-cc.cudagraph_capture_sizes=[1,2]",
            "-cc.max_cudagraph_capture_size=8",
        ),
        ("-tp=1 -cc.pass_config.fuse_allreduce_rms=1", "--tensor-parallel-size 1", "fuse_allreduce_rms=True"),
        ("--max-num-batched-tokens=8 --max-num-seqs=9", "--max-num-batched-tokens 8", "--max-num-seqs 9"),
    ],
)
def test_two_user_values_that_contradict_each_other_are_an_error_that_names_both(
    resolved: Resolved, words: str, first: str, second: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resolved("-O2", *words.split())
    assert first in str(error.value)
    assert second in str(error.value)
    assert "\n" not in str(error.value)


def test_an_eager_flag_is_named_in_a_contradiction(resolved: Resolved) -> None:
    with pytest.raises(ConfigError, match=r"fuse_norm_quant=True and --enforce-eager contradict"):
        resolved("--enforce-eager", "-cc.pass_config.fuse_norm_quant=True")


def test_one_custom_op_of_two_is_enough_beside_a_user_list(resolved: Resolved) -> None:
    config = resolved("-cc.custom_ops=none,+quantize", "-cc.pass_config.fuse_norm_quant=True")
    assert config.compilation.custom_ops == ("none", "+quantize")


def test_a_full_graph_of_disabled_ops_raises_the_mode_instead(resolved: Resolved) -> None:
    config = resolved("-O0", "-cc.cudagraph_mode=FULL", "-cc.custom_ops=none")
    assert said(config, MODE) == (CompilationMode.VLLM_COMPILE, f"required by {OPS}")


ALL = list(CUDAGraphMode)
NONE, PIECEWISE, FULL, DECODE, BOTH = ALL


@pytest.mark.parametrize(
    ("wanted", "without_pieces", "without_full", "without_both"),
    [
        (NONE, NONE, NONE, NONE),
        (PIECEWISE, NONE, PIECEWISE, NONE),
        (FULL, FULL, NONE, NONE),
        (DECODE, DECODE, NONE, NONE),
        (BOTH, DECODE, PIECEWISE, NONE),
    ],
)
def test_the_nearest_possible_graph_mode(
    wanted: CUDAGraphMode,
    without_pieces: CUDAGraphMode,
    without_full: CUDAGraphMode,
    without_both: CUDAGraphMode,
) -> None:
    assert nearest_graph_mode(wanted, pieces=True, full=True) is wanted
    assert nearest_graph_mode(wanted, pieces=False, full=True) is without_pieces
    assert nearest_graph_mode(wanted, pieces=True, full=False) is without_full
    assert nearest_graph_mode(wanted, pieces=False, full=False) is without_both


@pytest.mark.parametrize("word", ["-cc.mode=NONE", "-cc.mode=DYNAMO_TRACE_ONCE"])
def test_a_mode_without_pieces_lowers_the_graphs_to_decode_only(resolved: Resolved, word: str) -> None:
    config = resolved("-O2", word)
    assert said(config, GRAPHS) == (CUDAGraphMode.FULL_DECODE_ONLY, f"required by {MODE}")
    assert all_enabled(config.compilation.custom_ops, compiled=config.compilation.mode != 0)
    assert sum("FULL_AND_PIECEWISE to FULL_DECODE_ONLY" in notice for notice in config.notices) == 1


@pytest.mark.parametrize(
    ("words", "origin"),
    [("-cc.mode=STOCK_TORCH_COMPILE", MODE), ("-cc.custom_ops=none", OPS), ("-cc.custom_ops+=-pad", OPS)],
)
def test_generated_code_lowers_the_graphs_to_none(resolved: Resolved, words: str, origin: str) -> None:
    config = resolved("-O2", words)
    assert said(config, GRAPHS) == (CUDAGraphMode.NONE, f"required by {origin}")
    assert "record kernels" in config.settings[GRAPHS].reason


def test_no_splitting_ops_lower_the_graphs_to_decode_only(resolved: Resolved) -> None:
    config = resolved("-O2", "-cc.splitting_ops=[]")
    assert said(config, GRAPHS) == (
        CUDAGraphMode.FULL_DECODE_ONLY,
        "required by compilation_config.splitting_ops",
    )


def test_a_mode_without_pieces_lowers_piecewise_to_none(resolved: Resolved) -> None:
    config = resolved("-O1", "-cc.mode=NONE")
    assert said(config, GRAPHS) == (CUDAGraphMode.NONE, f"required by {MODE}")
    assert said(config, OPS) == (("none",), f"required by {MODE}")


def test_nothing_can_be_captured_of_uncompiled_disabled_ops(resolved: Resolved) -> None:
    config = resolved("-O2", "-cc.mode=NONE", "-cc.custom_ops=none")
    assert config.compilation.cudagraph_mode is CUDAGraphMode.NONE
    assert "custom op" in config.settings[GRAPHS].reason


def test_a_platform_without_graphs_lowers_them(resolved: Resolved, machine: PlatformFacts) -> None:
    config = resolved("-O2", platform=dataclasses.replace(machine, name="elsewhere"))
    assert said(config, GRAPHS) == (CUDAGraphMode.NONE, "platform")
    assert any("elsewhere" in notice for notice in config.notices)


def test_passes_are_lowered_with_one_notice_where_the_mode_has_none(resolved: Resolved) -> None:
    config = resolved("-O2", "--enforce-eager")
    assert said(config, PASS + "fuse_norm_quant") == (False, f"required by {MODE}")
    assert said(config, PASS + "fuse_rope_kvcache") == (False, f"required by {MODE}")
    assert len(config.notices) == 1
    assert "fuse_norm_quant" in config.notices[0]
    assert "fuse_rope_kvcache" in config.notices[0]


def test_ordinary_levels_have_nothing_to_notice(resolved: Resolved) -> None:
    for level in range(4):
        assert resolved(f"-O{level}").notices == ()


def test_enforce_eager_is_two_settings(resolved: Resolved) -> None:
    config = resolved("--enforce-eager")
    assert said(config, MODE) == (CompilationMode.NONE, "user")
    assert said(config, GRAPHS) == (CUDAGraphMode.NONE, "user")
    assert said(config, OPS) == (("none",), f"required by {MODE}")


def test_a_switch_for_several_processes_is_noticed_where_there_is_one(resolved: Resolved) -> None:
    config = resolved("-cc.pass_config.fuse_allreduce_rms=True")
    assert said(config, PASS + "fuse_allreduce_rms") == (True, "user")
    assert len(config.notices) == 1
    assert "matches nothing" in config.notices[0]


def test_what_a_graph_is_split_at_is_not_fused(resolved: Resolved) -> None:
    split = "-cc.splitting_ops=attention,kv_write"
    config = resolved("-O1", split)
    assert said(config, PASS + "fuse_rope_kvcache") == (False, "required by compilation_config.splitting_ops")
    assert any("lowered fuse_rope_kvcache from True to False" in notice for notice in config.notices)
    for flag in ("fuse_rope_kvcache", "fuse_qk_norm_rope_kvcache"):
        with pytest.raises(ConfigError, match=f"{flag}=True and -cc.splitting_ops"):
            resolved(split, f"-cc.pass_config.{flag}=True")


@pytest.mark.parametrize(
    "words",
    [
        "-O0 -cc.compile_sizes=1,2",
        "-O0 -cc.compile_ranges_endpoints=8",
        "-O0 -cc.splitting_ops=attention",
        "-O0 -cc.backend=eager",
        "-O0 -cc.inductor_compile_config.max_autotune=true",
        "-O0 -cc.cudagraph_capture_sizes=1",
        "-O0 -cc.max_cudagraph_capture_size=4",
        "-O0 -cc.cudagraph_num_of_warmups=1",
        "-O2 -cc.cudagraph_num_of_warmups=1",
        "-O0 -cc.pass_config.rope_kvcache_fusion_max_token_num=256",
        "-O2 -cc.pass_config.fi_allreduce_fusion_max_size_mb=2.5",
        "-O0 -cc.debug_dump_path=dump",
        "--max-num-seqs=8 -cc.cudagraph_capture_sizes=512",
        "--max-num-seqs=8 -cc.max_cudagraph_capture_size=16",
        "-O2 -cc.cudagraph_capture_sizes=1,2,5000",
        "-O2 -cc.max_cudagraph_capture_size=3000",
        "-O2 -cc.compile_sizes=1,5000",
        "-O2 -cc.compile_ranges_endpoints=256,5000",
    ],
)
def test_a_value_that_nothing_reads_is_kept_and_noticed(resolved: Resolved, words: str) -> None:
    config = resolved(*words.split())
    assert len(config.notices) == 1
    assert "has no effect" in config.notices[0]
    assert words.split()[1].split("=")[0].rsplit(".max_autotune", 1)[0] in config.notices[0]


def test_an_op_may_be_enabled_relative_to_the_default() -> None:
    assert custom_op_enabled(("-pad",), "rms_norm", compiled=True)
    assert not custom_op_enabled(("-pad",), "pad", compiled=True)
    assert not custom_op_enabled(("+pad",), "rms_norm", compiled=False)
    assert custom_op_enabled(("none", "+fused_add_rms_norm"), "rms_norm", compiled=True)


def test_the_cache_directory_is_ozones_own(resolved: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OZONE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert resolved().compilation.cache_dir == "/x/cache/ozone"
    monkeypatch.setenv("OZONE_CACHE_DIR", "/y")
    assert resolved().compilation.cache_dir == "/y"
    assert resolved("-cc.cache_dir=/z").compilation.cache_dir == "/z"
    monkeypatch.delenv("OZONE_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert resolved().compilation.cache_dir == os.path.expanduser("~/.cache/ozone")


def test_every_setting_stands_in_the_config_object_too(resolved: Resolved, small_model: ModelConfig) -> None:
    config = resolved(model=small_model)
    sections = {
        "model": config.model,
        "cache": config.cache,
        "scheduler": config.scheduler,
        "parallel": config.parallel,
        "kernel_config": config.kernel,
        "compilation_config": config.compilation,
        "compilation_config.pass_config": config.compilation.pass_config,
    }
    expected = {"optimization_level": config.optimization_level}
    for section, values in sections.items():
        for field in dataclasses.fields(values):
            if field.name != "pass_config":
                expected[f"{section}.{field.name}"] = getattr(values, field.name)
    assert {key: setting.value for key, setting in config.settings.items()} == expected


def test_tensor_parallelism_is_refused_until_it_is_built(
    parse: Callable[..., object], machine: PlatformFacts
) -> None:
    with pytest.raises(ConfigError, match="tensor parallelism is not built yet"):
        resolve(parse("-tp", "2"), None, machine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words", ["-O2 -cc.debug_dump_path=x", "-O0 -cc.cudagraph_mode=FULL -cc.debug_dump_path=x"]
)
def test_dumps_are_written_wherever_something_is_compiled_or_captured(resolved: Resolved, words: str) -> None:
    assert resolved(*words.split()).notices == ()


def test_ranges_in_disorder_are_kept_and_noticed(resolved: Resolved) -> None:
    for given in ("256,64", "64,64,256"):
        config = resolved(f"-cc.compile_ranges_endpoints={given}")
        assert config.compilation.compile_ranges_endpoints == tuple(map(int, given.split(",")))
        assert len(config.notices) == 1
        assert "ascending order" in config.notices[0]
    assert resolved("-cc.compile_ranges_endpoints=64,256,512").notices == ()


def test_what_a_notice_says_about_a_size_depends_on_the_graphs(resolved: Resolved) -> None:
    words = ("--max-num-seqs=8", "-cc.cudagraph_capture_sizes=4,512")
    (notice,) = resolved(*words).notices
    assert "[512] has no effect for decoding" in notice
    assert "max_num_seqs=8" in notice
    (notice,) = resolved(*words, "-cc.cudagraph_mode=FULL_DECODE_ONLY").notices
    assert "[512] has no effect because no step decodes for more" in notice
    assert resolved("--max-num-seqs=8", "-cc.cudagraph_capture_sizes=4,8").notices == ()


def test_splitting_ops_take_vllms_names_for_the_same_ops(resolved: Resolved) -> None:
    for words in ("vllm::unified_attention,vllm::unified_attention_with_output", "vllm.unified_attention"):
        assert resolved(f"-cc.splitting_ops={words}").compilation.splitting_ops == ("attention",)
    given = resolved("-cc.splitting_ops=ozone::attention,vllm::unified_kv_cache_update")
    assert given.compilation.splitting_ops == ("attention", "kv_write")


@pytest.mark.parametrize("name", ["bogus", "vllm::mamba_mixer2", "rms_norm"])
def test_an_op_that_cannot_split_is_an_error_that_lists_those_that_can(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is not an op .*: attention, kv_write, linear"):
        EngineArgs.from_kwargs(compilation_config={"splitting_ops": [name]})


def test_graphs_split_at_ops_that_are_always_one_node() -> None:
    from ozone.config.values import SPLITTING_OPS
    from ozone.ops.schemas import SCHEMAS

    assert {schema.custom_op for schema in SCHEMAS.values()} <= {None, *CUSTOM_OPS}
    assert {name for name, schema in SCHEMAS.items() if schema.custom_op is None} >= set(SPLITTING_OPS)
