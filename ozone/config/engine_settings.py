"""Resolution of `model.*`, `cache.*`, `scheduler.*` and `parallel.*`: sizes that depend on each other."""

from __future__ import annotations

from typing import Any

from ozone.config.args import DEFAULT_MODEL
from ozone.config.families import overflows_float16
from ozone.config.keys import MOST_TOKENS
from ozone.config.model import ModelConfig
from ozone.config.resolution import Resolution
from ozone.errors import ConfigError

MAX_LEN = "model.max_model_len"
DTYPE = "model.dtype"
QUANTIZATION = "model.quantization"
KV_BYTES = "cache.kv_cache_memory_bytes"
KV_DTYPE = "cache.kv_cache_dtype"
BLOCK = "cache.block_size"
TOKENS = "scheduler.max_num_batched_tokens"
SEQS = "scheduler.max_num_seqs"
CHUNKED = "scheduler.enable_chunked_prefill"

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Of the KV cache: its types have those of activations among them.
KV_ITEM_BYTES = {**ITEM_BYTES, "int8": 1, "fp8": 1}
_KV_COLUMNS = 16  # heads are padded to a multiple of it
_INT8_SCALE_BYTES = 4  # each position and head has a scale
DEFAULT_KV_BYTES = 4 * 1024**3
DEFAULT_KV_SHARE = 0.4
DEFAULT_TOKENS = 512
DEFAULT_SEQS = 64
_TOKEN_EACH = "each request in a step needs a token of it"


def resolve_engine(r: Resolution) -> None:
    """Decide everything that no level has a part in."""
    _resolve_fixed(r)
    _resolve_dtype(r)
    _resolve_quantization(r)
    _resolve_threads(r)
    _resolve_requests(r)
    _resolve_lengths(r)
    _resolve_tokens(r)


def kv_bytes_per_token(model: ModelConfig, dtype: str) -> int:
    """Bytes that one token takes in the KV cache of all layers; `dtype` is the cache's own."""
    columns = -(-model.head_dim // _KV_COLUMNS) * _KV_COLUMNS
    head = columns * KV_ITEM_BYTES[dtype] + (_INT8_SCALE_BYTES if dtype == "int8" else 0)
    return 2 * model.num_layers * model.num_kv_heads * head


def kv_cache_dtype(cache_dtype: str, dtype: str) -> str:
    """The type of the KV cache, given the setting and the type of activations."""
    return dtype if cache_dtype == "auto" else cache_dtype


def weight_bytes(model: ModelConfig, dtype: str) -> int:
    """About the bytes that the weights take as `dtype`; quantized ones take less."""
    attention = model.hidden_size * model.head_dim * 2 * (model.num_heads + model.num_kv_heads)
    layer = attention + 3 * model.hidden_size * model.intermediate_size
    tables = (1 if model.tie_word_embeddings else 2) * model.vocab_size * model.hidden_size
    return (model.num_layers * layer + tables) * ITEM_BYTES[dtype]


def step_bytes(model: ModelConfig, dtype: str, tokens: int, requests: int) -> int:
    """About the bytes that activations and logits of a step take at once, in a graph's pool or not."""
    hidden = max(model.hidden_size, model.num_heads * model.head_dim)
    columns = 3 * model.intermediate_size + 4 * hidden
    return tokens * columns * ITEM_BYTES[dtype] + requests * model.vocab_size * ITEM_BYTES["float32"]


def _resolve_fixed(r: Resolution) -> None:
    r.put("model.model", DEFAULT_MODEL, "default", "no model was named")
    r.put("model.served_model_name", (r.value("model.model"),), "default", "the model's name")
    fixed: dict[str, tuple[Any, str]] = {
        "model.tokenizer": (None, "the model's own"),
        "model.revision": (None, "the hub's main branch"),
        "model.download_dir": (None, "the hub's cache"),
        "model.seed": (0, "no seed was given"),
        "model.generation_config": ("auto", "the model's own, if it has one"),
        "model.override_generation_config": ({}, "the model's own"),
        "model.hf_overrides": ({}, "the model's own"),
        "model.chat_template": (None, "the model's own"),
        "model.max_logprobs": (20, "OpenAI's limit"),
        BLOCK: (16, "tokens in a block"),
        "cache.enable_prefix_caching": (True, "equal beginnings are computed once"),
        KV_DTYPE: ("auto", "the type of activations"),
        CHUNKED: (True, "long prompts do not hold up decoding"),
        "scheduler.scheduling_policy": ("fcfs", "first come, first served"),
        "scheduler.max_waiting_requests": (1024, "beyond, requests are refused"),
        "parallel.tensor_parallel_size": (1, "one process"),
    }
    for key, (value, reason) in fixed.items():
        r.put(key, value, "default", reason)


def _resolve_threads(r: Resolution) -> None:
    cores = r.platform.num_cores
    r.put("parallel.num_threads", cores, "platform", "usable cores")
    if (asked := r.value("parallel.num_threads")) > cores:
        r.notices.append(
            f"--num-threads {asked} is more than the {cores} cores that this process may use: its threads "
            "wait for each other, and a token can take a hundred times as long"
        )


def _resolve_dtype(r: Resolution) -> None:
    """`auto` means the checkpoint's own type; it is not a value to keep."""
    overflows = r.model is not None and overflows_float16(r.model.family)
    if r.by_user(DTYPE) and r.value(DTYPE) != "auto":
        if overflows and r.value(DTYPE) == "float16":
            r.notices.append(
                "--dtype float16: activations of this model's family leave its range, and requests may fail "
                "with logits that are not finite; bfloat16 holds them"
            )
        return
    r.settings.pop(DTYPE, None)
    r.user.pop(DTYPE, None)
    if r.model is None:
        r.put(DTYPE, "bfloat16", "default", "no model was read")
    elif overflows and r.model.dtype == "float16":
        r.put(DTYPE, "bfloat16", "model", "stored as float16, whose range its activations leave")
    else:
        r.put(DTYPE, r.model.dtype, "model", "the checkpoint's own type")


def _resolve_quantization(r: Resolution) -> None:
    """The checkpoint says how it is quantized; who says it too has to say the same."""
    found = None
    if r.model is not None and r.model.quantization is not None:
        found = str(r.model.quantization.get("quant_method"))
    if r.model is not None and r.by_user(QUANTIZATION) and r.value(QUANTIZATION) != found:
        asked = f"--quantization {r.value(QUANTIZATION)}"
        if found is None:
            raise ConfigError(
                f"{asked}: the model is not quantized; ozone quantize writes a checkpoint that is"
            )
        raise ConfigError(f"{asked}: the model is quantized as {found}; leave the flag away")
    r.put(QUANTIZATION, found, "model", "the checkpoint's own" if found else "plain weights")


def _resolve_requests(r: Resolution) -> None:
    """A step holds at least one token of each request in it."""
    if r.by_user(TOKENS) and r.value(TOKENS) < DEFAULT_SEQS:
        r.put(SEQS, r.value(TOKENS), f"required by {TOKENS}", _TOKEN_EACH)
    r.put(SEQS, DEFAULT_SEQS, "default", "requests in a step")
    if r.by_user(TOKENS) and r.value(TOKENS) < r.value(SEQS):
        raise r.contradiction(TOKENS, SEQS, _TOKEN_EACH)


def _resolve_lengths(r: Resolution) -> None:
    """Context length and KV cache bound each other."""
    _check_cache_size(r)
    free = min(DEFAULT_KV_BYTES, int(_memory_for_cache(r) * DEFAULT_KV_SHARE))
    reason = "at most 4 GiB and 40% of the memory that weights and a step leave free"
    if r.model is None:
        r.put(MAX_LEN, 0, "default", "follows from the model, and none was read")
        r.put(KV_BYTES, free, "platform", reason)
        return
    longest = r.model.max_position
    if r.by_user(MAX_LEN) and r.value(MAX_LEN) > longest:
        raise ConfigError(f"{r.flag(MAX_LEN)} is beyond what the model allows: max_position is {longest}")
    block = r.value(BLOCK)
    block_bytes = block * kv_bytes_per_token(r.model, kv_cache_dtype(r.value(KV_DTYPE), r.value(DTYPE)))
    if r.by_user(MAX_LEN):
        needed = -(-r.value(MAX_LEN) // block) * block_bytes
        _fit_cache(r, needed, free, reason)
        return
    wish = -(-longest // block) * block_bytes * r.value(SEQS)
    if wish < free:
        r.put(KV_BYTES, wish, "model", f"room for {r.value(SEQS)} requests of {longest} tokens")
    r.put(KV_BYTES, free, "platform", reason)
    room = r.value(KV_BYTES) // block_bytes * block
    if room < 1:
        raise _too_small(r, block_bytes)
    if room >= longest:
        r.put(MAX_LEN, longest, "model", "the longest context that the model allows")
        return
    r.put(MAX_LEN, room, f"required by {KV_BYTES}", f"the KV cache holds no more; the model allows {longest}")
    r.notices.append(
        f"max_model_len is {room}, not the model's {longest}: the KV cache of {r.value(KV_BYTES)} bytes "
        "holds no more; see --kv-cache-memory-bytes"
    )


def _memory_for_cache(r: Resolution) -> int:
    """What weights and the pool of a step's graph leave free."""
    available = r.platform.available_bytes
    if r.model is None:
        return available
    dtype = r.value(DTYPE)
    tokens = r.value(TOKENS) if r.by_user(TOKENS) else DEFAULT_TOKENS
    taken = weight_bytes(r.model, dtype) + step_bytes(r.model, dtype, tokens, r.value(SEQS))
    # Their size is an estimate, and mapped files can be reclaimed: some memory is left in any case.
    return max(available - taken, available // 10)


def _check_cache_size(r: Resolution) -> None:
    """What the machine can never hold is an error; what it could not hold just now is noticed."""
    total, available = r.platform.memory_bytes, r.platform.available_bytes
    if not r.by_user(KV_BYTES) or total == 0:  # an unknown size of memory bounds nothing
        return
    if r.value(KV_BYTES) > total:
        raise ConfigError(f"{r.flag(KV_BYTES)} is more than this machine's memory of {total} bytes")
    if r.value(KV_BYTES) > available:
        r.notices.append(f"{r.flag(KV_BYTES)} is more than the {available} bytes of memory that are free now")


def _fit_cache(r: Resolution, needed: int, free: int, reason: str) -> None:
    """Give the cache room for one request of the length that the user asked for."""
    if r.by_user(KV_BYTES):
        if r.value(KV_BYTES) < needed:
            raise r.contradiction(KV_BYTES, MAX_LEN, f"one request of that length takes {needed} bytes")
        return
    wish = needed * r.value(SEQS)
    if wish < free:
        r.put(KV_BYTES, wish, f"required by {MAX_LEN}", f"room for {r.value(SEQS)} requests of that length")
    if needed > free:
        if needed > r.platform.available_bytes:
            raise ConfigError(
                f"{r.flag(MAX_LEN)} takes {needed} bytes of KV cache for one request, "
                f"and {r.platform.available_bytes} bytes of memory are free"
            )
        r.put(KV_BYTES, needed, f"required by {MAX_LEN}", "room for one request of that length")
    r.put(KV_BYTES, free, "platform", reason)


def _too_small(r: Resolution, block_bytes: int) -> ConfigError:
    said = r.flag(KV_BYTES) if r.by_user(KV_BYTES) else f"a KV cache of {r.value(KV_BYTES)} bytes"
    return ConfigError(f"{said} is too small: one block of this model takes {block_bytes} bytes")


def _resolve_tokens(r: Resolution) -> None:
    """Without chunked prefill a step must hold the longest prompt; with it, a token of each request."""
    longest = r.value(MAX_LEN)
    if not r.value(CHUNKED):
        if r.by_user(TOKENS) and r.value(TOKENS) < longest:
            length = r.flag(MAX_LEN) if r.by_user(MAX_LEN) else f"max_model_len {longest}"
            raise ConfigError(
                f"{r.flag(TOKENS)} is below {length}, and with {r.flag(CHUNKED)} a prompt must fit in one "
                "step: raise it, or lower --max-model-len"
            )
        if longest > MOST_TOKENS:
            raise ConfigError(
                f"{r.flag(CHUNKED)}: a prompt of {longest} tokens must fit in one step, "
                f"and a step holds at most {MOST_TOKENS}; lower --max-model-len"
            )
        if longest > max(DEFAULT_TOKENS, r.value(SEQS)):
            r.put(TOKENS, longest, f"required by {CHUNKED}", "a prompt must fit in one step")
    if r.value(SEQS) > DEFAULT_TOKENS:
        r.put(TOKENS, r.value(SEQS), f"required by {SEQS}", _TOKEN_EACH)
    r.put(TOKENS, DEFAULT_TOKENS, "default", "tokens in a step")
