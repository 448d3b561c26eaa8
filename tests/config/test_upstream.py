"""What vLLM's users type is implemented, refused, or accepted with one warning."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments
from ozone.config.keys import KEYS
from ozone.config.neutral import NEUTRAL
from ozone.config.schema import OzoneConfig
from ozone.config.upstream import ACCEPTED_FLAGS, ACCEPTED_KEYS, REFUSED_FLAGS, REFUSED_KEYS
from ozone.config.vllm_options import OPTIONS, SERVE, SHORT, SWITCHES, long_names
from ozone.errors import ConfigError
from ozone.server.flags import add_server_arguments

Parse = Callable[..., EngineArgs]
Resolved = Callable[..., OzoneConfig]

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(Path(__file__).parents[2] / "tools"))

import flags_page  # noqa: E402


def names(text: str) -> list[str]:
    return text.split()


COMPILATION_CONFIG = names("""
level mode debug_dump_path cache_dir compile_cache_save_format backend custom_ops ir_enable_torch_wrap
splitting_ops compile_mm_encoder cudagraph_mm_encoder encoder_cudagraph_token_budgets
encoder_cudagraph_max_vision_items_per_batch encoder_cudagraph_max_frames_per_batch compile_sizes
compile_ranges_endpoints inductor_compile_config inductor_passes cudagraph_mode cudagraph_num_of_warmups
cudagraph_capture_sizes cudagraph_copy_inputs cudagraph_specialize_lora use_inductor_graph_partition
max_cudagraph_capture_size dynamic_shapes_config fast_moe_cold_start cudagraph_decoder_replay
decoder_replay_cudagraph_capture_sizes decoder_replay_trim_threshold
""")

PASS_CONFIG = names("""
fuse_norm_quant fuse_act_quant fuse_attn_quant eliminate_noops enable_sp fuse_gemm_comms fuse_allreduce_rms
fuse_minimax_qk_norm enable_qk_norm_rope_fusion fuse_rope_kvcache_cat_mla fuse_act_padding
fuse_mla_dual_rms_norm fuse_rope_kvcache fuse_qk_norm_rope_kvcache rope_kvcache_fusion_max_token_num
fi_allreduce_fusion_max_size_mb sp_min_token_num
""")

KERNEL_CONFIG = names("""
ir_op_priority enable_flashinfer_autotune moe_backend linear_backend enable_cutedsl_warmup enable_jit_warmup
enable_bf16x3_router_gemm monokernel sparse_indexer_topk_backend enable_rocm_segmented_attn_autotune
""")

IMPLEMENTED = {field.name for field in dataclasses.fields(EngineArgs)} - {"ignored"}
ALL_KEYS = (
    [f"compilation_config.{name}" for name in COMPILATION_CONFIG]
    + [f"compilation_config.pass_config.{name}" for name in PASS_CONFIG]
    + [f"kernel_config.{name}" for name in KERNEL_CONFIG]
)


SERVE_FLAGS = flags_page.serve_flags()
# A value of each shape that is no option's default.
ASKING = {
    "switch": None,
    "flag": None,
    "int": "7",
    "size": "7k",
    "float": "0.5",
    "json": '{"a": 1}',
    "words": "a",
    "text": "a",
}


def words_of(name: str) -> list[str]:
    """`name` on a command line, asking for something."""
    option, flag = OPTIONS[name], flags_page.flag(name)
    if option.default == "true":
        return ["--no-" + flag[2:]]
    words = {"load_format": "safetensors", "model_impl": "transformers"}.get(name, ASKING[option.shape])
    return [flag] if words is None else [flag, words]


@pytest.mark.parametrize("name", SERVE)
def test_every_option_of_vllm_has_one_answer(name: str) -> None:
    implemented = flags_page.flag(name) in SERVE_FLAGS
    assert [implemented, name in REFUSED_FLAGS, name in ACCEPTED_FLAGS].count(True) == 1


def test_only_vllms_options_are_answered() -> None:
    assert (REFUSED_FLAGS.keys() | ACCEPTED_FLAGS.keys()) <= OPTIONS.keys()
    assert not IMPLEMENTED & (REFUSED_FLAGS.keys() | ACCEPTED_FLAGS.keys())


@pytest.mark.parametrize("key", ALL_KEYS)
def test_every_key_of_vllms_config_objects_has_one_answer(key: str) -> None:
    assert [key in place for place in (KEYS, REFUSED_KEYS, ACCEPTED_KEYS)].count(True) == 1


def test_no_key_has_two_answers() -> None:
    assert not KEYS.keys() & (REFUSED_KEYS.keys() | ACCEPTED_KEYS.keys())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--load-format dummy", "vLLM has --load-format dummy; Ozone does not (yet): it knows auto, hf, saf"),
        ("-dp 2", "vLLM has -dp; Ozone does not (yet): start several servers"),
        ("-n 2", "vLLM has -n; Ozone does not (yet)"),
        ("-sc.method ngram", "vLLM has -sc.method; Ozone does not (yet): speculative decoding"),
        ("--kv-transfer-config.kv_role=both", "vLLM has --kv-transfer-config.kv_role; Ozone does not (yet)"),
        ("--enable-sleep-mode", "vLLM has --enable-sleep-mode; Ozone does not (yet)"),
        ("--no-disable-sliding-window=false", "vLLM has --no-disable-sliding-window; Ozone does not (yet)"),
        ("--swap-space x", "--swap-space: x is not a number"),
        ("--swap-space", "--swap-space: a value is missing"),
        ("--swap-space -O1", "--swap-space: a value is missing"),
        ("--gpu-memory-utilization=much", "--gpu-memory-utilization: much is not a number"),
        ("--limit-mm-per-prompt image=2", "--limit-mm-per-prompt: image=2 is not JSON"),
        ("--trust-remote-code=perhaps", "--trust-remote-code: perhaps is not a boolean"),
        ("--master-port=x", "--master-port: x is not an integer"),
        ("--gpu-memory-utilisation 0.9", "did you mean --gpu-memory-utilization?"),
        ("--quantization-config {1}", "vLLM has --quantization-config; Ozone does not (yet): the checkpoint"),
        ("-pp 2", "vLLM has -pp; Ozone does not (yet)"),
        ("--enable-lora", "vLLM has --enable-lora; Ozone does not (yet): adapters are not built"),
        ("--enable-lora=true", "vLLM has --enable-lora; Ozone does not (yet)"),
        ("--no-enable-lora=false", "vLLM has --no-enable-lora; Ozone does not (yet)"),
        ("--pipeline-parallel-size", "vLLM has --pipeline-parallel-size; Ozone does not (yet)"),
        ("--pipeline-parallel-size=2", "vLLM has --pipeline-parallel-size; Ozone does not (yet)"),
        ("--hf-config-path {", "vLLM has --hf-config-path; Ozone does not (yet)"),
        (
            "-cc.use_inductor_graph_partition=1",
            "vLLM has -cc.use_inductor_graph_partition; Ozone does not (yet)",
        ),
        ("-cc.pass_config.enable_sp=1", "vLLM has -cc.pass_config.enable_sp; Ozone does not (yet)"),
    ],
)
def test_what_ozone_has_not_is_said_in_one_line(
    parse: Parse, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(*words.split())
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("flag", [*long_names(), *SHORT, "--attention-config.a", "--kernel-config.mode"])
def test_no_name_of_vllms_is_unknown(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    for words in ([flag], [flag + "=1"], [flag, "1"]):
        parser = ArgumentParser(prog="ozone serve")
        add_engine_arguments(parser, model="both")
        add_server_arguments(parser)
        with contextlib.suppress(SystemExit):
            parser.parse_args(words)
        assert "there is no flag" not in capsys.readouterr().err


@pytest.mark.parametrize("name", SERVE)
def test_no_argument_of_vllms_is_unknown(name: str) -> None:
    with contextlib.suppress(ConfigError):
        EngineArgs.from_kwargs(**{name: "x"})
        return
    with pytest.raises(ConfigError) as caught:
        EngineArgs.from_kwargs(**{name: "x"})
    assert "there is no argument" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED_FLAGS)
def test_a_flag_that_ozone_has_not_is_refused(
    parse: Parse, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    option = OPTIONS[name]
    words = [flags_page.flag(name), *([] if option.shape in SWITCHES else ["77"])]
    with pytest.raises(SystemExit):
        parse(*words)
    assert f"vLLM has {words[0]}; Ozone does not (yet): {REFUSED_FLAGS[name]}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ACCEPTED_FLAGS)
def test_a_flag_without_effect_gives_one_warning(resolved: Resolved, name: str) -> None:
    words = words_of(name)
    config = resolved(*words, *words, "-O1")
    assert config.notices == (f"{words[0]} is accepted without effect: {ACCEPTED_FLAGS[name]}",)
    assert [key for key, setting in config.settings.items() if setting.origin == "user"] == [
        "optimization_level"
    ]


@pytest.mark.parametrize("name", ACCEPTED_FLAGS)
def test_an_argument_without_effect_gives_one_warning(
    resolved_kwargs: Callable[..., OzoneConfig], name: str
) -> None:
    word = words_of(name)[1:]
    config = resolved_kwargs(**{name: word[0] if word else OPTIONS[name].default != "true"})
    assert config.notices == (f"{name} is accepted without effect: {ACCEPTED_FLAGS[name]}",)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("--attention-config.backend=FLASH_ATTN", "--attention-config"),
        ("-ac.backend FLASH_ATTN -ac.flash_attn_version=3", "--attention-config"),
        ('-ac {"backend":"FLASH_ATTN"}', "--attention-config"),
        ("--limit-mm-per-prompt.image 2", "--limit-mm-per-prompt"),
        ("--gpu_memory_utilization=0.9 --gpu-memory-utilization 0.8", "--gpu-memory-utilization"),
        ("--ignore-patterns a b", "--ignore-patterns"),
        ("--trust_remote_code=yes", "--trust-remote-code"),
        ("--enable-log-stats=false", "--enable-log-stats"),
    ],
)
def test_other_spellings_of_flags_without_effect(resolved: Resolved, words: str, flag: str) -> None:
    (notice,) = resolved(*words.split(), "-O1").notices
    assert notice.startswith(f"{flag} is accepted without effect: ")


@pytest.mark.parametrize("key", ACCEPTED_KEYS)
def test_a_key_without_effect_gives_one_warning(resolved: Resolved, key: str) -> None:
    flag = key.replace("compilation_config", "-cc").replace("kernel_config", "--kernel-config")
    config = resolved(f"{flag}=1", f"{flag}=2")
    assert len(config.notices) == 1
    assert flag in config.notices[0]


def test_whole_objects_without_effect_are_accepted(resolved: Resolved) -> None:
    config = resolved("-cc", '{"dynamic_shapes_config": {"type": "backed", "evaluate_guards": false}}')
    assert len(config.notices) == 1
    assert config.notices[0].startswith("-cc.dynamic_shapes_config is accepted without effect")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gpu_memory_utilization": "x"}, "gpu_memory_utilization: x is not a number"),
        ({"swap_space": True}, "swap_space: a value is missing"),
        ({"limit_mm_per_prompt": 3}, "limit_mm_per_prompt: 3 is not a JSON object or list"),
        ({"port": 8000}, "port belongs to `ozone serve`"),
        ({"kv_cache_memory": 1, "kv_cache_memory_bytes": 2}, "two names of one argument"),
        ({"device": "cuda"}, "vLLM has device; Ozone does not (yet)"),
        ({"compilation_config": {"level": 3}}, "vLLM has -cc.level; Ozone does not (yet): say -O0 to -O3"),
    ],
)
def test_what_ozone_has_not_in_python(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        EngineArgs.from_kwargs(**kwargs)
    assert message in str(error.value)


def test_arguments_that_are_switched_off_ask_for_nothing() -> None:
    args = EngineArgs.from_kwargs(trust_remote_code=False, quantization=None, enable_lora=False)
    assert args.user_settings() == ({}, [])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"pipeline_parallel_size": 1},
        {"load_format": "auto", "tokenizer_mode": "Auto", "config_format": "hf"},
        {"runner": "generate", "convert": "auto", "task": None},
        {"limit_mm_per_prompt": {}, "logits_processors": [], "ignore_patterns": ()},
        {"device": "cpu"},
        {"device": "auto", "quantization": None, "data_parallel_size": 1, "data_parallel_rank": 0},
        {"compilation_config": {"use_inductor_graph_partition": False, "inductor_passes": {}}},
        {"compilation_config": {"pass_config": {"enable_sp": False}, "level": None}},
        {"kernel_config": {"moe_backend": "auto"}},
        {"gpu_memory_utilization": 0.92, "swap_space": 4, "cpu_offload_gb": 0.0, "async_scheduling": None},
    ],
    ids=str,
)
def test_values_that_ask_for_nothing_are_let_through(kwargs: dict[str, object]) -> None:
    assert EngineArgs.from_kwargs(**kwargs).user_settings() == ({}, [])


@pytest.mark.parametrize(
    "words",
    [
        "--pipeline-parallel-size 1",
        "--pipeline_parallel_size=1",
        "-pp 1",
        "-pp=1",
        "--load-format auto --tokenizer-mode=auto",
        "--runner generate --device cpu",
        "--limit-mm-per-prompt {} ",
        "--quantization None",
        "--no-enable-lora --enable-lora=false --no-trust-remote-code --disable-lora --disable-lora=true",
        "--no-disable-sliding-window --enable-sliding-window --disable-expert-parallel -ep=false",
        "-sc none -dp=1 -n 1 -r 0 -asc 1",
        "-cc.use_inductor_graph_partition=False -cc.pass_config.enable_sp=false",
        "--kernel-config.moe_backend=auto",
    ],
)
def test_flags_that_ask_for_nothing_are_let_through(parse: Parse, words: str) -> None:
    settings, notices = parse(*words.split(), "-O1").user_settings()
    assert list(settings) == ["optimization_level"]
    assert notices == []


@pytest.mark.parametrize(
    "kwargs",
    [
        {"pipeline_parallel_size": 2},
        {"load_format": "dummy"},
        {"runner": "pooling"},
        {"enable_lora": True},
        {"data_parallel_size": 0},
        {"device": "cuda"},
        {"compilation_config": {"use_inductor_graph_partition": True}},
    ],
    ids=str,
)
def test_other_values_of_the_same_arguments_are_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Ozone does not"):
        EngineArgs.from_kwargs(**kwargs)


def test_only_what_ozone_has_not_has_values_that_ask_for_nothing() -> None:
    assert NEUTRAL.keys() <= (
        ACCEPTED_FLAGS.keys() | ACCEPTED_KEYS.keys() | REFUSED_FLAGS.keys() | REFUSED_KEYS.keys()
    )
    assert all(word == word.lower() for words in NEUTRAL.values() for word in words)


@pytest.mark.parametrize("name", [*ACCEPTED_FLAGS, *REFUSED_FLAGS])
def test_vllms_own_defaults_ask_for_nothing(parse: Parse, name: str) -> None:
    option, flag = OPTIONS[name], flags_page.flag(name)
    if option.default == "-" or option.shape in ("words", "flag"):
        words = [] if option.shape not in ("switch", "flag") else [f"{flag}=false"]
    else:
        words = [f"{flag}={option.default}"]
    assert parse(*words).user_settings() == ({}, [])


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--disable-prefix-caching", False),
        ("--no-disable-prefix-caching", True),
        ("--disable_prefix_caching=false", True),
        ("--enable-prefix-caching --disable-prefix-caching", False),
        ("--disable-prefix-caching --enable-prefix-caching", True),
    ],
)
def test_the_opposite_of_a_switch(parse: Parse, words: str, value: bool) -> None:
    settings, _ = parse(*words.split()).user_settings()
    assert settings["cache.enable_prefix_caching"].value is value


def test_every_switch_has_its_opposite(parse: Parse) -> None:
    settings, _ = parse("--disable-flashinfer-autotune", "--disable-chunked-prefill").user_settings()
    assert [given.value for given in settings.values()] == [False, False]
    assert not parse("--enforce-eager", "--disable-enforce-eager").user_settings()[0]


def test_a_command_line_without_an_engine_knows_no_such_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ArgumentParser(prog="x").parse_args(["--pipeline-parallel-size", "1"])
    assert "there is no flag --pipeline-parallel-size" in capsys.readouterr().err


def test_the_docs_show_every_flag_and_key() -> None:
    page = flags_page.PAGE.read_text()
    for key in KEYS.values():
        assert f"`{key.flag}`" in page


def test_the_docs_are_made_from_the_tables() -> None:
    page = flags_page.PAGE.read_text()
    assert page == flags_page.current_page(), "run python tools/flags_page.py"


def test_the_counts_are_of_all_options() -> None:
    assert [sum(row[column] for row in flags_page.counts()) for column in (1, 2, 3)] == [322, 411, 461]


def test_the_docs_show_the_table_of_levels() -> None:
    from ozone.config.levels import TABLE

    page = (DOCS / "levels.md").read_text()
    for key in TABLE:
        assert f"`{KEYS[key].flag}`" in page
