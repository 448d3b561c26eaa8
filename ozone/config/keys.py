"""Every setting that a user can make: its key, its flag, its kind of value and its help, as one table.

The command line, keyword arguments, config objects and `OzoneConfig.settings` are all made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ozone.config import values
from ozone.config.values import Kind

COMPILATION = "compilation_config."
KERNEL = "kernel_config."
# Buffers for a whole step are made when the engine starts, so that its size has a bound.
MOST_TOKENS = 1024 * 1024
MOST_SEQS = 4096


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        key: name in `OzoneConfig.settings`, ``"section.name"``.
        kind: reads its value.
        help: one line for ``--help`` and the docs.
        metavar: what stands for the value in ``--help``; empty for a boolean switch.
        short: a short flag, or empty.
        several: the flag takes several words.
        alias: another name of the flag and of the keyword argument, or empty.
        default: what help says about the default.
    """

    key: str
    kind: Kind
    help: str
    metavar: str = ""
    short: str = ""
    several: bool = False
    default: str = ""
    alias: str = ""

    @property
    def name(self) -> str:
        """The keyword argument: the last part of the key."""
        return self.key.rsplit(".", 1)[-1]

    @property
    def flag(self) -> str:
        """How a command line spells it."""
        if self.key.startswith(COMPILATION):
            return "-cc." + self.key.removeprefix(COMPILATION)
        if self.key.startswith(KERNEL):
            return "--kernel-config." + self.key.removeprefix(KERNEL)
        return "--" + self.name.replace("_", "-")


_DTYPE = values.choice("auto", "float32", "float16", "bfloat16", half="float16", float="float32")

# Schemes of `ozone/quantization/`, and what vLLM calls kernels for two of them.
_QUANTIZATION = values.choice(
    "compressed-tensors", "fp8", "gptq", "awq", "gguf", gptq_marlin="gptq", awq_marlin="awq"
)

_ENGINE_KEYS = (
    Key(
        "optimization_level",
        values.integer_choice(0, 1, 2, 3),
        "start-up time traded for speed: 0 starts fastest, 3 runs fastest",
        "LEVEL",
        "-O",
        default="2",
    ),
    Key("model.model", values.text, "directory, .gguf file or hub id", "MODEL", default="smollm2"),
    Key("model.tokenizer", values.text, "tokenizer of another model", "MODEL", default="the model's"),
    Key("model.revision", values.text, "branch, tag or commit of a hub model", "REV", default="main"),
    Key("model.download_dir", values.text, "where hub models are kept", "DIR", default="the hub's cache"),
    Key(
        "model.served_model_name",
        values.text_list,
        "names that the server answers to",
        "NAME",
        several=True,
        default="the model's name",
    ),
    Key(
        "model.dtype",
        _DTYPE,
        "type of activations and unquantized weights: auto, float32, float16 (half), bfloat16",
        "DTYPE",
        default="auto: the checkpoint's own",
    ),
    Key(
        "model.quantization",
        _QUANTIZATION,
        "how the checkpoint is quantized, which it says itself: an error where it is quantized otherwise",
        "SCHEME",
        "-q",
        default="the checkpoint's own",
    ),
    Key("model.seed", values.integer(0), "seed of everything random", "N", default="0"),
    Key(
        "model.max_model_len",
        values.human_integer(1),
        "longest context in tokens, prompt and output together; 8k is 8000, 8K is 8192",
        "N",
        default="the model's, as far as the KV cache holds it",
    ),
    Key(
        "model.generation_config",
        values.text,
        "sampling defaults: auto (the model's own), vllm (none), or a directory",
        "WHERE",
        default="auto",
    ),
    Key(
        "model.override_generation_config",
        values.mapping,
        "sampling defaults that go before those of --generation-config, as a JSON object",
        "JSON",
        default="none",
    ),
    Key(
        "model.hf_overrides",
        values.mapping,
        "values that go before those of the model's config.json, as a JSON object",
        "JSON",
        default="none",
    ),
    Key("model.chat_template", values.text, "chat template: a file or the template itself", "TEMPLATE"),
    Key(
        "model.max_logprobs",
        values.integer(-1),
        "most logprobs a request may ask for; -1 for any number",
        "N",
        default="20",
    ),
    Key(
        "cache.block_size",
        values.integer_choice(16, 32, 64, 128, 256),
        "tokens in a block of the KV cache: 16, 32, 64, 128 or 256",
        "N",
        default="16",
    ),
    Key(
        "cache.kv_cache_memory_bytes",
        values.memory_size,
        "memory of the KV cache: 2G, 512MiB or a number of bytes",
        "SIZE",
        default="at most 4 GiB and 40% of the memory that the weights leave free",
        alias="kv_cache_memory",
    ),
    Key(
        "cache.enable_prefix_caching", values.boolean, "reuse the KV cache of equal beginnings", default="on"
    ),
    Key(
        "cache.kv_cache_dtype",
        values.choice(
            "auto",
            "bfloat16",
            "float16",
            "float32",
            "int8",
            "fp8",
            fp8_e4m3="fp8",
            int8_per_token_head="int8",
        ),
        "type of the KV cache: auto (that of activations), bfloat16, float16, float32, int8, fp8 (fp8_e4m3)",
        "DTYPE",
        default="auto",
    ),
    Key(
        "scheduler.max_num_batched_tokens",
        values.human_integer(1, MOST_TOKENS),
        "most tokens in a step",
        "N",
        default="512",
    ),
    Key("scheduler.max_num_seqs", values.integer(1, MOST_SEQS), "most requests in a step", "N", default="64"),
    Key(
        "scheduler.enable_chunked_prefill",
        values.boolean,
        "split long prompts over several steps",
        default="on",
    ),
    Key(
        "scheduler.scheduling_policy",
        values.choice("fcfs", "priority"),
        "who goes first: fcfs (first come) or priority",
        "POLICY",
        default="fcfs",
    ),
    Key(
        "scheduler.max_waiting_requests",
        values.integer(1),
        "most requests that wait; beyond, the server answers 429",
        "N",
        default="1024",
    ),
    Key("parallel.num_threads", values.integer(1), "threads of the engine", "N", default="the usable cores"),
    Key(
        "parallel.tensor_parallel_size",
        values.integer(1),
        "processes that share a model (only 1 so far)",
        "N",
        "-tp",
        default="1",
    ),
)

_COMPILATION_KEYS = (
    Key("mode", values.compilation_mode, "NONE, STOCK_TORCH_COMPILE, DYNAMO_TRACE_ONCE or VLLM_COMPILE"),
    Key("custom_ops", values.custom_ops, "list of all, none, +op, -op: ops that run as one node"),
    Key(
        "cudagraph_mode",
        values.cudagraph_mode,
        "NONE, PIECEWISE, FULL, FULL_DECODE_ONLY or FULL_AND_PIECEWISE: what is replayed",
    ),
    Key(
        "backend",
        values.choice("inductor", "eager", **{"": "inductor"}),  # vLLM's word for its default
        "what no program covers is compiled by inductor, or run as it was traced: eager",
    ),
    Key("splitting_ops", values.splitting_ops, "ops at which the traced model is split"),
    Key(
        "compile_sizes",
        values.compile_sizes(MOST_TOKENS),
        "token counts that are compiled for exactly; cudagraph_capture_sizes stands for those captured",
    ),
    Key(
        "compile_ranges_endpoints",
        values.integer_list(1, MOST_TOKENS),
        "last token count of each compile range",
    ),
    Key("cudagraph_capture_sizes", values.integer_list(1, MOST_TOKENS), "batch sizes that are captured"),
    Key("max_cudagraph_capture_size", values.integer(1, MOST_TOKENS), "largest batch size that is captured"),
    Key("cudagraph_num_of_warmups", values.integer(0), "runs before a capture"),
    Key("inductor_compile_config", values.mapping, "options passed on to Inductor"),
    Key("cache_dir", values.text, "where packed weights, programs and tuning results are kept"),
    Key("debug_dump_path", values.text, "directory for graphs, pass reports and programs"),
    Key("pass_config.fuse_norm_quant", values.boolean, "fuse RMS norm and quantization"),
    Key("pass_config.fuse_act_quant", values.boolean, "fuse activation and quantization"),
    Key("pass_config.fuse_act_padding", values.boolean, "fuse RMS norm and padding"),
    Key("pass_config.fuse_rope_kvcache", values.boolean, "fuse rotary embedding and KV-cache write"),
    Key("pass_config.fuse_allreduce_rms", values.boolean, "fuse all-reduce and RMS norm"),
    Key("pass_config.fuse_add_rms_norm", values.boolean, "fuse the residual's sum and RMS norm"),
    Key("pass_config.enable_qk_norm_rope_fusion", values.boolean, "fuse q/k norm and rotary embedding"),
    Key("pass_config.fuse_qk_norm_rope_kvcache", values.boolean, "fuse q/k norm, rotary and KV-cache write"),
    Key("pass_config.fuse_attn_quant", values.boolean, "fuse attention and quantization"),
    Key("pass_config.eliminate_noops", values.boolean, "drop ops that change nothing"),
    Key(
        "pass_config.rope_kvcache_fusion_max_token_num",
        values.integer(1),
        "most tokens for which the rotary and KV-cache fusions pay",
    ),
    Key(
        "pass_config.fi_allreduce_fusion_max_size_mb",
        values.number,
        "largest tensor, in MiB, for which fuse_allreduce_rms pays",
    ),
)

_KERNEL_KEYS = (Key("enable_flashinfer_autotune", values.boolean, "tune the choice of kernels at start-up"),)


def _section(prefix: str, keys: tuple[Key, ...]) -> dict[str, Key]:
    return {prefix + key.key: Key(prefix + key.key, key.kind, key.help) for key in keys}


ENGINE_KEYS: dict[str, Key] = {key.key: key for key in _ENGINE_KEYS}
COMPILATION_KEYS: dict[str, Key] = _section(COMPILATION, _COMPILATION_KEYS)
KERNEL_KEYS: dict[str, Key] = _section(KERNEL, _KERNEL_KEYS)
KEYS: dict[str, Key] = ENGINE_KEYS | COMPILATION_KEYS | KERNEL_KEYS

# Other names of keyword arguments, and the names that they stand for.
ALIASES: dict[str, str] = {key.alias: key.name for key in _ENGINE_KEYS if key.alias}

# Keys whose values are lists, which `+=` can extend.
LIST_KEYS = frozenset(
    COMPILATION + name
    for name in (
        "custom_ops",
        "splitting_ops",
        "compile_sizes",
        "compile_ranges_endpoints",
        "cudagraph_capture_sizes",
    )
)
# Keys whose values are mappings with free names.
MAPPING_KEYS = frozenset({COMPILATION + "inductor_compile_config"})
