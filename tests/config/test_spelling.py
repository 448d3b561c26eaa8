"""Every spelling of the specification says what it says, on the command line and in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ozone.config
from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.keys import ENGINE_KEYS, KEYS
from ozone.config.schema import CompilationMode, CUDAGraphMode, OzoneConfig
from ozone.errors import ConfigError

Parse = Callable[..., EngineArgs]
Resolved = Callable[..., OzoneConfig]

CC = "compilation_config."


def user(args: EngineArgs) -> dict[str, Any]:
    """What the user set, by key."""
    return {key: given.value for key, given in args.user_settings()[0].items()}


@pytest.mark.parametrize(
    "words",
    [
        ["-O1"],
        ["-O", "1"],
        ["-O=1"],
        ["--optimization-level", "1"],
        ["--optimization-level=1"],
        ["--optimization_level", "1"],
        ["--optimization_level=1"],
        ["-O3", "-O0", "-O1"],
    ],
)
def test_spellings_of_the_level(parse: Parse, words: list[str]) -> None:
    assert user(parse(*words)) == {"optimization_level": 1}


@pytest.mark.parametrize("level", [1, "1"])
def test_the_level_in_python(level: object) -> None:
    assert user(EngineArgs.from_kwargs(optimization_level=level)) == {"optimization_level": 1}


@pytest.mark.parametrize(
    "words",
    [
        ["-cc.mode=NONE"],
        ["-cc.mode", "NONE"],
        ["-cc.mode=none"],
        ["-cc.mode=0"],
        ["-cc", '{"mode": "NONE"}'],
        ["-cc", '{"mode": 0}'],
        ['-cc={"mode": "None"}'],
        ["--compilation-config.mode=NONE"],
        ["--compilation-config.mode", "NONE"],
        ["--compilation_config.mode=NONE"],
        ["--compilation-config", '{"mode": "NONE"}'],
        ['--compilation-config={"mode": "NONE"}'],
        ["--compilation_config", '{"mode": "NONE"}'],
    ],
)
def test_spellings_of_a_key(parse: Parse, words: list[str]) -> None:
    assert user(parse(*words)) == {CC + "mode": CompilationMode.NONE}


@pytest.mark.parametrize(
    "words",
    [
        ["-cc.pass_config.fuse_norm_quant=False"],
        ["-cc.pass_config.fuse_norm_quant", "false"],
        ["-cc.pass_config.fuse-norm-quant=NO"],
        ["-cc.pass-config.fuse_norm_quant=0"],
        ["-cc", '{"pass_config": {"fuse_norm_quant": false}}'],
        ["-cc.pass_config", '{"fuse_norm_quant": false}'],
        ['-cc.pass_config={"fuse_norm_quant": false}'],
    ],
)
def test_spellings_of_a_nested_key(parse: Parse, words: list[str]) -> None:
    assert user(parse(*words)) == {CC + "pass_config.fuse_norm_quant": False}


@pytest.mark.parametrize(
    "words",
    [
        ["--kernel-config.enable_flashinfer_autotune=False"],
        ["--kernel_config.enable_flashinfer_autotune", "no"],
        ["--kernel-config.enable-flashinfer-autotune=0"],
        ["--kernel-config", '{"enable_flashinfer_autotune": false}'],
        ["--no-enable-flashinfer-autotune"],
        ["--no_enable_flashinfer_autotune"],
        ["--enable-flashinfer-autotune=false"],
    ],
)
def test_spellings_of_the_kernel_config(parse: Parse, words: list[str]) -> None:
    assert user(parse(*words)) == {"kernel_config.enable_flashinfer_autotune": False}


@pytest.mark.parametrize("mode", list(CompilationMode))
def test_a_mode_by_name_in_any_case_and_by_number(parse: Parse, mode: CompilationMode) -> None:
    for word in (mode.name, mode.name.lower(), mode.name.title(), str(mode.value)):
        assert user(parse(f"-cc.mode={word}")) == {CC + "mode": mode}


@pytest.mark.parametrize("mode", list(CUDAGraphMode))
def test_a_graph_mode_by_name_in_any_case(parse: Parse, mode: CUDAGraphMode) -> None:
    for word in (mode.name, mode.name.lower()):
        assert user(parse(f"-cc.cudagraph_mode={word}")) == {CC + "cudagraph_mode": mode}


@pytest.mark.parametrize(
    ("number", "mode"), [(0, CUDAGraphMode.NONE), (1, CUDAGraphMode.PIECEWISE), (2, CUDAGraphMode.FULL)]
)
def test_the_graph_modes_that_have_a_number(parse: Parse, number: int, mode: CUDAGraphMode) -> None:
    assert user(parse(f"-cc.cudagraph_mode={number}")) == {CC + "cudagraph_mode": mode}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *((word, True) for word in ("true", "True", "TRUE", "yes", "YES", "1")),
        *((word, False) for word in ("false", "False", "FALSE", "no", "No", "0")),
    ],
)
def test_booleans(parse: Parse, word: str, value: bool) -> None:
    key = "pass_config.eliminate_noops"
    assert user(parse(f"-cc.{key}={word}")) == {CC + key: value}
    assert user(EngineArgs.from_kwargs(compilation_config={"pass_config": {"eliminate_noops": word}})) == {
        CC + key: value
    }


@pytest.mark.parametrize(
    "word",
    [
        '["none", "+rms_norm"]',
        "[none,+rms_norm]",
        "[none, +rms_norm]",
        "none,+rms_norm",
        "none, +rms_norm",
        "['none','+rms_norm']",
    ],
)
def test_lists_of_words(parse: Parse, word: str) -> None:
    assert user(parse(f"-cc.custom_ops={word}")) == {CC + "custom_ops": ("none", "+rms_norm")}
    assert user(parse("-cc.custom_ops", word)) == {CC + "custom_ops": ("none", "+rms_norm")}


@pytest.mark.parametrize("word", ["none", "[none]", '["none"]'])
def test_lists_of_one_word(parse: Parse, word: str) -> None:
    assert user(parse(f"-cc.custom_ops={word}")) == {CC + "custom_ops": ("none",)}


@pytest.mark.parametrize("word", ["1,2,4", "[1,2,4]", "[1, 2, 4]", '["1","2","4"]'])
def test_lists_of_numbers(parse: Parse, word: str) -> None:
    assert user(parse(f"-cc.cudagraph_capture_sizes={word}")) == {CC + "cudagraph_capture_sizes": (1, 2, 4)}


def test_vllms_flag_for_the_capture_sizes(parse: Parse) -> None:
    assert user(parse("--cudagraph-capture-sizes", "1", "2", "4", "--max-cudagraph-capture-size=4")) == {
        CC + "cudagraph_capture_sizes": (1, 2, 4),
        CC + "max_cudagraph_capture_size": 4,
    }


def test_appending_extends_what_stood_before(parse: Parse) -> None:
    words = ("-cc.custom_ops=none", "-cc.custom_ops+=+rms_norm,+pad", "-cc.custom_ops+", "+quantize")
    assert user(parse(*words)) == {CC + "custom_ops": ("none", "+rms_norm", "+pad", "+quantize")}


def test_appending_to_nothing_starts_a_list(parse: Parse) -> None:
    assert user(parse("-cc.compile_sizes+=4", "-cc.compile_sizes+=[8,16]")) == {
        CC + "compile_sizes": (4, 8, 16)
    }


def test_a_leading_dash_in_a_value_is_a_value(parse: Parse) -> None:
    assert user(parse("-cc.custom_ops", "-rms_norm", "-O1"))[CC + "custom_ops"] == ("-rms_norm",)


def test_appending_to_what_is_no_list_is_an_error(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("-cc.mode+=NONE")
    assert "only lists can be appended to" in capsys.readouterr().err


def test_settings_merge_leaf_by_leaf_in_order(parse: Parse) -> None:
    args = parse(
        "-cc.mode=NONE",
        "-cc",
        '{"mode": 3, "pass_config": {"fuse_norm_quant": true, "fuse_act_quant": true}}',
        "--compilation-config.pass_config.fuse_act_quant=false",
        "-O1",
        "-cc",
        '{"cudagraph_mode": "full"}',
    )
    assert user(args) == {
        "optimization_level": 1,
        CC + "mode": CompilationMode.VLLM_COMPILE,
        CC + "pass_config.fuse_norm_quant": True,
        CC + "pass_config.fuse_act_quant": False,
        CC + "cudagraph_mode": CUDAGraphMode.FULL,
    }


def test_null_means_not_set(parse: Parse) -> None:
    assert user(parse("-cc", '{"mode": null, "pass_config": null, "debug_dump_path": null}')) == {}
    assert user(parse("-cc.mode=NONE", "-cc", '{"mode": null}')) == {}
    assert user(parse("-cc.mode=NONE", "-cc.mode=null")) == {}
    assert user(EngineArgs.from_kwargs(compilation_config={"mode": None}, dtype=None)) == {}


def test_free_names_merge_below_a_mapping(parse: Parse) -> None:
    args = parse(
        "-cc.inductor_compile_config.max_autotune=true",
        "-cc",
        '{"inductor_compile_config": {"triton.cudagraphs": false, "cpp": {"threads": 2}}}',
        "-cc.inductor_compile_config.note=a-b",
    )
    assert user(args) == {
        CC + "inductor_compile_config": {
            "max_autotune": True,
            "triton.cudagraphs": False,
            "cpp": {"threads": 2},
            "note": "a-b",
        }
    }


def test_enforce_eager_takes_part_in_the_order(parse: Parse) -> None:
    eager = {CC + "mode": CompilationMode.NONE, CC + "cudagraph_mode": CUDAGraphMode.NONE}
    assert user(parse("--enforce-eager")) == eager
    assert user(parse("--enforce_eager=true")) == eager
    assert user(parse("-cc.mode=3", "--enforce-eager")) == eager
    assert user(parse("--enforce-eager", "-cc.mode=3"))[CC + "mode"] is CompilationMode.VLLM_COMPILE
    assert user(parse("--enforce-eager", "--no-enforce-eager")) == {}
    assert user(parse("-cc.mode=1", "--no-enforce-eager")) == {
        CC + "mode": CompilationMode.STOCK_TORCH_COMPILE
    }


def test_enforce_eager_in_python_has_no_order() -> None:
    eager = user(EngineArgs.from_kwargs(enforce_eager=True, compilation_config={"mode": 0}))
    assert eager[CC + "cudagraph_mode"] is CUDAGraphMode.NONE
    assert user(EngineArgs.from_kwargs(enforce_eager=False)) == {}
    with pytest.raises(ConfigError, match=r"-cc\.mode=VLLM_COMPILE and --enforce-eager contradict"):
        EngineArgs.from_kwargs(enforce_eager=True, compilation_config={"mode": 3})
    with pytest.raises(ConfigError, match=r"contradict"):
        EngineArgs.from_kwargs(
            cudagraph_capture_sizes=[1], compilation_config={"cudagraph_capture_sizes": [2]}
        )


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "VLLM_COMPILE", "pass_config": {"fuse_norm_quant": False}},
        {"mode": CompilationMode.VLLM_COMPILE, "pass_config": ozone.config.PassConfig(fuse_norm_quant=False)},
        '{"mode": 3, "pass_config": {"fuse_norm_quant": false}}',
        ozone.config.CompilationConfig(mode=3, pass_config={"fuse_norm_quant": False}),
        ozone.config.CompilationConfig(
            mode="vllm_compile", pass_config=ozone.config.PassConfig(fuse_norm_quant=False)
        ),
    ],
)
def test_config_objects_in_python(given: Any) -> None:
    assert user(EngineArgs.from_kwargs(compilation_config=given)) == {
        CC + "mode": CompilationMode.VLLM_COMPILE,
        CC + "pass_config.fuse_norm_quant": False,
    }


def test_the_kernel_config_in_python() -> None:
    expected = {"kernel_config.enable_flashinfer_autotune": True}
    for given in (
        {"enable_flashinfer_autotune": True},
        ozone.config.KernelConfig(enable_flashinfer_autotune=True),
    ):
        assert user(EngineArgs.from_kwargs(kernel_config=given)) == expected
    assert user(EngineArgs.from_kwargs(enable_flashinfer_autotune=True)) == expected


def test_config_classes_have_a_field_for_every_key_and_set_none_by_themselves() -> None:
    from dataclasses import fields

    names = {f"{CC}{field.name}" for field in fields(ozone.config.CompilationConfig)} - {CC + "pass_config"}
    names |= {f"{CC}pass_config.{field.name}" for field in fields(ozone.config.PassConfig)}
    names |= {f"kernel_config.{field.name}" for field in fields(ozone.config.KernelConfig)}
    assert names == set(KEYS) - set(ENGINE_KEYS)
    empty = EngineArgs.from_kwargs(
        compilation_config=ozone.config.CompilationConfig(pass_config=ozone.config.PassConfig()),
        kernel_config=ozone.config.KernelConfig(),
    )
    assert user(empty) == {}


def test_no_other_class_is_a_config_object() -> None:
    with pytest.raises(ConfigError, match="is not a config object"):
        EngineArgs.from_kwargs(compilation_config=3.5)


ENGINE_FLAGS = {
    "--model m": ("model.model", "m"),
    "--tokenizer t": ("model.tokenizer", "t"),
    "--revision r": ("model.revision", "r"),
    "--download-dir d": ("model.download_dir", "d"),
    "--served-model-name a b": ("model.served_model_name", ("a", "b")),
    "--dtype half": ("model.dtype", "float16"),
    "--dtype BFLOAT16": ("model.dtype", "bfloat16"),
    "--quantization compressed-tensors": ("model.quantization", "compressed-tensors"),
    "-q GPTQ_Marlin": ("model.quantization", "gptq"),
    "--seed 7": ("model.seed", 7),
    "--max-model-len 8k": ("model.max_model_len", 8000),
    "--max-model-len 8K": ("model.max_model_len", 8192),
    "--max_model_len=1.5K": ("model.max_model_len", 1536),
    "--generation-config vllm": ("model.generation_config", "vllm"),
    "--chat-template c.jinja": ("model.chat_template", "c.jinja"),
    "--max-logprobs 5": ("model.max_logprobs", 5),
    "--block-size 32": ("cache.block_size", 32),
    "--kv-cache-memory-bytes 2G": ("cache.kv_cache_memory_bytes", 2 * 1024**3),
    "--kv-cache-memory-bytes 512MiB": ("cache.kv_cache_memory_bytes", 512 * 1024**2),
    "--kv-cache-memory-bytes 1.5GB": ("cache.kv_cache_memory_bytes", 1_500_000_000),
    "--kv-cache-memory-bytes 12345678": ("cache.kv_cache_memory_bytes", 12345678),
    "--enable-prefix-caching": ("cache.enable_prefix_caching", True),
    "--no-enable-prefix-caching": ("cache.enable_prefix_caching", False),
    "--no_enable_prefix_caching": ("cache.enable_prefix_caching", False),
    "--enable-prefix-caching=no": ("cache.enable_prefix_caching", False),
    "--kv-cache-dtype auto": ("cache.kv_cache_dtype", "auto"),
    "--kv-cache-dtype fp8_e4m3": ("cache.kv_cache_dtype", "fp8"),
    "--kv-cache-dtype int8": ("cache.kv_cache_dtype", "int8"),
    "--max-num-batched-tokens 4K": ("scheduler.max_num_batched_tokens", 4096),
    "--max-num-seqs 9": ("scheduler.max_num_seqs", 9),
    "--enable-chunked-prefill": ("scheduler.enable_chunked_prefill", True),
    "--no-enable-chunked-prefill": ("scheduler.enable_chunked_prefill", False),
    "--scheduling-policy priority": ("scheduler.scheduling_policy", "priority"),
    "--max-waiting-requests 3": ("scheduler.max_waiting_requests", 3),
    "--num-threads 4": ("parallel.num_threads", 4),
    "--tensor-parallel-size 1": ("parallel.tensor_parallel_size", 1),
    "-tp 1": ("parallel.tensor_parallel_size", 1),
    '--hf-overrides {"a":{"b":1}}': ("model.hf_overrides", {"a": {"b": 1}}),
    '--override-generation-config {"top_k":3}': ("model.override_generation_config", {"top_k": 3}),
    "-tp=1": ("parallel.tensor_parallel_size", 1),
}


@pytest.mark.parametrize("words", ENGINE_FLAGS)
def test_flags_of_the_engine(parse: Parse, words: str) -> None:
    key, value = ENGINE_FLAGS[words]
    assert user(parse(*words.split())) == {key: value}


def test_every_flag_of_the_engine_is_among_these() -> None:
    assert {key for key, _ in ENGINE_FLAGS.values()} == set(ENGINE_KEYS) - {"optimization_level"}


@pytest.mark.parametrize("key", ENGINE_KEYS.values(), ids=lambda key: key.name)
def test_every_flag_is_a_keyword_argument(key: Any) -> None:
    assert hasattr(EngineArgs(), key.name)


@pytest.mark.parametrize("value", ["auto", "-1", -1])
def test_the_longest_that_fits_is_the_default(value: Any) -> None:
    assert user(EngineArgs.from_kwargs(max_model_len=value)) == {}


def test_the_model_may_be_named_by_position_or_by_flag(parse: Parse) -> None:
    assert parse("a").model == parse("--model", "a").model == parse("-O1", "a", "--model", "a").model == "a"
    with pytest.raises(ConfigError, match="named twice: a and --model b"):
        parse("a", "--model", "b")


def test_a_command_may_name_its_model_one_way_only(capsys: pytest.CaptureFixture[str]) -> None:
    by_flag, by_position = ArgumentParser(), ArgumentParser()
    add_engine_arguments(by_flag, model="flag")
    add_engine_arguments(by_position, model="positional")
    assert engine_args(by_flag.parse_args(["--model", "a"])).model == "a"
    assert engine_args(by_position.parse_args(["a"])).model == "a"
    with pytest.raises(SystemExit):
        by_flag.parse_args(["a"])
    with pytest.raises(SystemExit):
        by_position.parse_args(["--model", "a"])
    assert capsys.readouterr().err.count("ozone: error: ") == 2


def test_words_after_two_dashes_are_left_alone() -> None:
    parser = ArgumentParser()
    parser.add_argument("text")
    add_engine_arguments(parser, model="flag")
    assert parser.parse_args(["-O1", "--", "-O2"]).text == "-O2"


def test_a_parser_of_subcommands_leaves_their_flags_to_them() -> None:
    parser = ArgumentParser()
    below = parser.add_subparsers(dest="what").add_parser("latency")
    add_engine_arguments(below, model="flag")
    namespace = parser.parse_args(["latency", "-O1", "-cc.mode=NONE"])
    assert user(engine_args(namespace))["optimization_level"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max-modle-len 8", "there is no flag --max-modle-len; did you mean --max-model-len?"),
        ("--max-model 8", "there is no flag --max-model; did you mean --max-model-len?"),
        ("--opt 1", "there is no flag --opt; did you mean --optimization-level?"),
        ("--xyzzy 1", "there is no flag --xyzzy; see --help"),
        ("-cc.xyzzy=1", "-cc.xyzzy: there is no such key; there are mode, custom_ops, cudagraph_mode"),
        ("-t 2", "there is no flag -t; did you mean -tp?"),
        ("-O4", "--optimization-level: 4 is not one of 0, 1, 2, 3"),
        ("-Ofast", "--optimization-level: fast is not one of 0, 1, 2, 3"),
        ("-O.mode=3", "-O.mode=3: config keys are spelled -cc.mode=3"),
        ("-cc.mod=3", "-cc.mod: there is no such key; did you mean mode?"),
        ("-cc.pass_config.fuse_norm=1", "did you mean pass_config.fuse_norm_quant?"),
        ("--kernel-config.autotune=1", "did you mean enable_flashinfer_autotune?"),
        ("-cc.mode=FAST", "NONE (0), STOCK_TORCH_COMPILE (1), DYNAMO_TRACE_ONCE (2), VLLM_COMPILE (3)"),
        ("-cc.mode=4", "-cc.mode: 4 is not one of NONE (0)"),
        ("-cc.mode=true", "-cc.mode: true is not one of"),
        ("-cc.backend=indcutor", "-cc.backend: indcutor is not one of inductor, eager"),
        ("-cc.cudagraph_mode=3", "NONE (0), PIECEWISE (1), FULL (2), FULL_DECODE_ONLY, FULL_AND_PIECEWISE"),
        ("-cc.pass_config.fuse_norm_quant=maybe", "maybe is not a boolean; say true or false"),
        ("-cc.custom_ops=+rms", "'+rms' is not all, none, +OP or -OP; the ops are rms_norm, silu_and_mul"),
        ("-cc.custom_ops=rms_norm", "'rms_norm' is not all, none, +OP or -OP"),
        ("-cc.custom_ops=all,none", "all and none exclude each other"),
        ("-cc.custom_ops=+pad,-pad", "+pad and -pad exclude each other"),
        ("-cc.compile_sizes=a", "-cc.compile_sizes: a is not an integer"),
        ("-cc.compile_sizes=[1", "the closing bracket is missing"),
        ("-cc.compile_sizes=0", "it must be at least 1"),
        ("-cc.mode", "-cc.mode: a value is missing"),
        ("-cc.mode --enforce-eager", "-cc.mode: a value is missing"),
        ("-cc {", "is neither KEY=VALUE nor a JSON object"),
        ("-cc 3", "is not a config object"),
        ("-cc.pass_config=3", "-cc.pass_config: 3 is not a config object"),
        ("-cc.inductor_compile_config=3", "-cc.inductor_compile_config: 3 is not a JSON object"),
        ("-cc.pass_config.fi_allreduce_fusion_max_size_mb=-2", "-2 is not a number above 0"),
        ("--block-size 8", "--block-size: 8 is not one of 16, 32, 64, 128, 256"),
        ("--num-threads 0", "--num-threads: 0 is not allowed; it must be at least 1"),
        ("--max-num-seqs x", "--max-num-seqs: x is not an integer"),
        ("--max-model-len 8Q", "8Q is not a whole number such as 8192, 8k (8000) or 8K (8192)"),
        ("--kv-cache-memory-bytes 2X", "2X is not a size such as 2G, 512MiB"),
        ("--kv-cache-memory-bytes 0", "it must be at least 1"),
        ("--kv-cache-dtype fp8_e5m2", "--kv-cache-dtype: fp8_e5m2 is not one of auto, bfloat16, float16"),
        ("--dtype int8", "int8 is not one of auto, float32, float16, bfloat16, half, float"),
        ("--scheduling-policy lifo", "lifo is not one of fcfs, priority"),
        ("--seed -1", "--seed: -1 is not allowed; it must be at least 0"),
        ("--max-num-seqs", "expected one argument"),
        ("a b", "unrecognized arguments: b"),
    ],
)
def test_mistakes_are_one_line_that_says_what_would_be_right(
    parse: Parse, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    with pytest.raises((SystemExit, ConfigError)) as stopped:
        parse(*words.split())
    if isinstance(stopped.value, SystemExit):
        assert stopped.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("ozone: error: ")
    else:
        line = f"{stopped.value}\n"
    assert line.count("\n") == 1
    assert message in line


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_modle_len": 1}, "there is no argument max_modle_len; did you mean max_model_len?"),
        ({"optimization_level": 9}, "9 is not one of 0, 1, 2, 3"),
        ({"optimization_level": True}, "True is not one of 0, 1, 2, 3"),
        ({"compilation_config": {"mod": 3}}, "did you mean mode?"),
        ({"compilation_config": {"mode": "x"}}, "x is not one of NONE (0)"),
        ({"max_num_seqs": 1.5}, "--max-num-seqs: 1.5 is not an integer"),
        ({"model": 3}, "--model: 3 is not text"),
        ({"compilation_config": {"custom_ops": 3}}, "-cc.custom_ops: 3 is not a list"),
    ],
)
def test_mistakes_in_python(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        EngineArgs.from_kwargs(**kwargs)
    assert message in str(error.value)


def test_help_names_every_flag_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="ozone test")
    add_engine_arguments(parser, model="both")
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for key in ENGINE_KEYS.values():
        assert key.flag in text
    words = text.replace(",", " ").split()
    for name in set(KEYS) - set(ENGINE_KEYS):
        assert name.split(".", 1)[1] in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["\u2013dtype", "half"],
            "\u2013dtype begins with a dash of another kind, U+2013; flags",
        ),
        (["\u2014dtype=half"], "begins with a dash of another kind, U+2014"),
        (["\u2212O1"], "begins with a dash of another kind, U+2212"),
        (["-\u2013dtype"], "begins with a dash of another kind, U+2013"),
        (["--dtype half"], "'--dtype half' is one word; write --dtype and half as two"),
        (["--dtype="], "--dtype: an empty word is not one of"),
        (["--dtype", ""], "--dtype: an empty word is not one of"),
        (["--model="], "--model: a value is missing"),
        ([""], "--model: a value is missing"),
        (["-O="], "-O: a value is missing"),
        (["-O", ""], "--optimization-level: an empty word is not one of 0, 1, 2, 3"),
        (["-cc.=3"], "-cc.=3: a key is missing"),
        (["-cc.", "3"], "-cc.: a key is missing"),
        (["--cc.mode=0"], "there is no flag --cc.mode; did you mean -cc.mode?"),
        (["--DTYPE=half"], "there is no flag --DTYPE; did you mean --dtype?"),
        (["--foo"], "there is no flag --foo; see --help"),
        (["--dtype\u200b", "half"], r"there is no flag --dtype\u200b; did you mean --dtype?"),
        (["--dtype\x1b[31m", "half"], r"there is no flag --dtype\x1b[31m; did you mean --dtype?"),
        (["--\udcff"], r"there is no flag --\udcff; see --help"),
        (["--enable-prefix-caching", "true"], "a switch has its value in the same word"),
        (["--trust-remote-code", "False"], "--trust-remote-code=False"),
        (["--seed", "--dtype", "half"], "--seed: expected one argument"),
        (["@flags"], "@flags: flags in a file are read with --config FILE"),
        (["-O1", "a", "b"], "unrecognized arguments: b"),
    ],
)
def test_slips_are_one_line(
    parse: Parse, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises((SystemExit, ConfigError)) as caught:
        parse(*words)
    line = str(caught.value) if caught.type is ConfigError else capsys.readouterr().err.removesuffix("\n")
    assert message in line
    assert line.isprintable()


def test_text_of_a_prompt_may_begin_with_any_dash() -> None:
    parser = ArgumentParser(prog="x")
    add_engine_arguments(parser, model="flag")
    parser.add_argument("prompt", nargs="*")
    words = ["\u2014 he said", "\u2013 1", "- one", "--dtype half", "true"]
    assert parser.parse_args(words).prompt == words


@pytest.mark.parametrize(
    "words", ["--revision None", "--download-dir=", "--chat-template none", "--kv-cache-memory None"]
)
def test_none_is_the_default(parse: Parse, words: str) -> None:
    assert user(parse(*words.split())) == {}


def test_vllms_defaults_of_keys(parse: Parse) -> None:
    assert user(parse("-cc.backend=")) == {CC + "backend": "inductor"}
    assert (
        user(parse("-cc.use_inductor=true", "-cc.use_cudagraph=1", "-cc.use_inductor_graph_partition=0"))
        == {}
    )
    with pytest.raises(SystemExit):
        parse("-cc.use_inductor=false", "-cc.use_inductor_graph_partition=true")


def test_a_number_is_a_mode_in_python() -> None:
    assert user(EngineArgs.from_kwargs(compilation_config=0)) == {CC + "mode": CompilationMode.NONE}


def test_compile_sizes_may_be_the_captured_ones(resolved: Resolved) -> None:
    for words, sizes in (
        ("cudagraph_capture_sizes", (1, 2, 4, 8)),
        ('["cudagraph_capture_sizes", 3]', (1, 2, 3, 4, 8)),
        ("3,cudagraph_capture_sizes", (1, 2, 3, 4, 8)),
    ):
        config = resolved("-O2", "--max-num-seqs=8", f"-cc.compile_sizes={words}").compilation
        assert config.cudagraph_capture_sizes == (1, 2, 4, 8)
        assert config.compile_sizes == sizes
    assert resolved("-O0", "-cc.compile_sizes=cudagraph_capture_sizes").compilation.compile_sizes == ()


def test_help_about_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    for word, shown, hidden in (
        ("max-num", "--max-num-seqs", "--dtype"),
        ("max_num", "--max-num-seqs", "--dtype"),
        ("KV cache", "--block-size", "--dtype"),
        ("all", "--dtype", "--no-such"),
    ):
        parser = ArgumentParser(prog="x")
        add_engine_arguments(parser, model="both")
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args([f"--help={word}"])
        out = capsys.readouterr().out
        assert stopped.value.code == 0 and shown in out and hidden not in out


DEEP_LIST = "[" * 30_000 + "]" * 30_000
DEEP_OBJECT = '{"a":' * 15_000 + "1" + "}" * 15_000
QUOTES = '["' + '\\"' * 60_000


@pytest.mark.parametrize("value", [DEEP_LIST, DEEP_OBJECT, QUOTES], ids=["list", "object", "quotes"])
@pytest.mark.parametrize(
    "flag",
    ["-cc", "--kernel-config", "-cc.custom_ops", "-cc.inductor_compile_config", "--limit-mm-per-prompt"],
)
def test_deep_json_is_refused(
    parse: Parse, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises((SystemExit, ConfigError)) as caught:
        parse(f"{flag}={value}")
    line = str(caught.value) if caught.type is ConfigError else capsys.readouterr().err
    assert flag in line and len(line) < 2100


def test_brackets_in_texts_do_not_count() -> None:
    from ozone.config.values import from_json

    text = "[" * 200
    assert from_json(f'{{"a": "{text}", "b": [{",".join(["[]"] * 200)}]}}') == {"a": text, "b": [[]] * 200}
    with pytest.raises(ValueError, match="more than 64 deep"):
        from_json("[" * 65 + "]" * 65)
