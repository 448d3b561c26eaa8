"""Cut, flipped and overwritten bytes: a model file opens or is refused in one line, nothing else.

"Nothing else" includes memory: what a damaged file of a few kilobytes may allocate is bounded.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weights_helpers import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    LLAMA_CONFIG,
    LLAMA_ENTRIES,
    STRING,
    U8,
    U16,
    U32,
    U64,
    gguf_model,
    llama_tensors,
    write_hf_model,
)

from ozone.errors import ModelFileError
from ozone.weights.gguf_file import StringArray
from ozone.weights.model_files import open_model

MAX_BYTES = 8 << 20
EXAMPLES = 250

Damage = Callable[[bytes], bytes]


def cut(position: float) -> Damage:
    return lambda data: data[: int(position * len(data))]


def flip(position: float, bits: int) -> Damage:
    def damage(data: bytes) -> bytes:
        if not data:
            return data
        index = int(position * (len(data) - 1))
        return data[:index] + bytes([data[index] ^ bits]) + data[index + 1 :]

    return damage


def overwrite(position: float, value: int) -> Damage:
    def damage(data: bytes) -> bytes:
        index = int(position * len(data))
        return data[:index] + struct.pack("<Q", value) + data[index + 8 :]

    return damage


def remove(position: float, length: int) -> Damage:
    return lambda data: data[: int(position * len(data))] + data[int(position * len(data)) + length :]


def repeat(position: float, length: int) -> Damage:
    def damage(data: bytes) -> bytes:
        index = int(position * len(data))
        return data[: index + length] + data[index:]

    return damage


SPECIAL = st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
POSITION = st.floats(0, 1)
DAMAGES = st.lists(
    st.one_of(
        st.builds(cut, POSITION),
        st.builds(flip, POSITION, st.integers(1, 255)),
        st.builds(overwrite, POSITION, SPECIAL | st.integers(0, 2**64 - 1)),
        st.builds(remove, POSITION, st.integers(1, 40)),
        st.builds(repeat, POSITION, st.integers(1, 40)),
    ),
    min_size=1,
    max_size=4,
)
quick = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
long = settings(quick, max_examples=8_000)


def damaged(data: bytes, damages: list[Damage], part: float = 1.0) -> bytes:
    """Only the first `part` is damaged: most of a model file is weights, which may be anything."""
    edge = int(part * len(data))
    head, rest = data[:edge], data[edge:]
    for damage in damages:
        head = damage(head)
    return head + rest


def opens_or_is_refused(path: Path) -> bool:
    """Opens a model and reads all there is of it; whether that went well."""
    tracemalloc.start()
    try:
        read_everything(path)
        refusal = None
    except ModelFileError as error:
        refusal = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MAX_BYTES
    assert refusal is None or (refusal.isprintable() and len(refusal) < 1000)
    return refusal is None


def read_everything(path: Path) -> None:
    model = open_model(str(path))
    weights = model.open_weights()
    for value in (model.gguf_metadata or {}).values():
        if isinstance(value, StringArray):
            list(value)
    for name in weights.names():
        tensor = weights.get(name)
        assert tensor.data.ndim == 1
        assert str(tensor.data.dtype) == "uint8"


GGUF = gguf_model()
GGUF_HEADER = 1 - sum(tensor.nbytes for tensor in llama_tensors().values()) / len(GGUF)


def check_gguf(folder: Path, damages: list[Damage], part: float) -> None:
    path = folder / "model.gguf"
    path.write_bytes(damaged(GGUF, damages, part))
    opens_or_is_refused(path)


def check_safetensors(folder: Path, damages: list[Damage], name: str) -> None:
    write_hf_model(folder, LLAMA_CONFIG | {"rope_scaling": {"type": "linear", "factor": 2.0}})
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "x"}]}')
    (folder / name).write_bytes(damaged((folder / name).read_bytes(), damages))
    opens_or_is_refused(folder)


def check_index(folder: Path, damages: list[Damage]) -> None:
    write_hf_model(folder)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    names = dict.fromkeys(["model.norm.weight", "lm_head.weight"], "model-1.safetensors")
    index = json.dumps({"metadata": {"total_size": 1152}, "weight_map": names}).encode()
    (folder / "model.safetensors.index.json").write_bytes(damaged(index, damages))
    opens_or_is_refused(folder)


def test_what_is_damaged_below_is_sound(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(GGUF)
    assert opens_or_is_refused(tmp_path / "model.gguf")
    assert opens_or_is_refused(write_hf_model(tmp_path / "hf"))


@quick
@given(DAMAGES)
def test_a_damaged_gguf_header(tmp_path: Path, damages: list[Damage]) -> None:
    check_gguf(tmp_path, damages, GGUF_HEADER)


@quick
@given(DAMAGES)
def test_a_damaged_gguf_file(tmp_path: Path, damages: list[Damage]) -> None:
    check_gguf(tmp_path, damages, 1.0)


@quick
@given(DAMAGES, st.sampled_from(["model.safetensors", "config.json", "tokenizer_config.json"]))
def test_a_damaged_hugging_face_directory(tmp_path: Path, damages: list[Damage], name: str) -> None:
    check_safetensors(tmp_path, damages, name)


@quick
@given(DAMAGES)
def test_a_damaged_index(tmp_path: Path, damages: list[Damage]) -> None:
    check_index(tmp_path, damages)


@quick
@given(st.binary(max_size=400))
def test_arbitrary_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0" + data)
    opens_or_is_refused(tmp_path / "model.gguf")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *LLAMA_CONFIG,
        *("rope_scaling", "rope_parameters", "rope_theta", "rms_norm_eps", "head_dim", "hidden_act"),
        *("layer_types", "sliding_window", "use_sliding_window", "max_window_layers"),
        *("eos_token_id", "quantization_config"),
    ]
)
FAMILIES = st.sampled_from(["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3"])


@quick
@given(FAMILIES, st.dictionaries(KEYS, JSON, max_size=3))
def test_any_values_in_a_config(tmp_path: Path, family: str, values: dict[str, object]) -> None:
    write_hf_model(tmp_path, {**LLAMA_CONFIG, "architectures": [f"{family}ForCausalLM"], **values})
    opens_or_is_refused(tmp_path)


NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    U8: st.integers(0, 2**8 - 1), I8: st.integers(-(2**7), 2**7 - 1), U16: st.integers(0, 2**16 - 1),
    I16: st.integers(-(2**15), 2**15 - 1), U32: st.integers(0, 2**32 - 1),
    I32: st.integers(-(2**31), 2**31 - 1),
    F32: st.floats(width=32), BOOL: st.integers(0, 1), U64: st.integers(0, 2**64 - 1),
    I64: st.integers(-(2**63), 2**63 - 1), F64: st.floats(),
}  # fmt: skip
SCALARS = {**NUMBERS, STRING: st.text(max_size=6)}


def arrays_of(elements: dict[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    kinds = st.sampled_from(sorted(elements))
    return kinds.flatmap(lambda kind: st.tuples(st.just(kind), st.lists(elements[kind], max_size=3)))


ANY_KIND = {**SCALARS, ARRAY: arrays_of({**SCALARS, ARRAY: arrays_of(SCALARS)})}
ANY_VALUE = st.sampled_from(sorted(ANY_KIND)).flatmap(lambda kind: st.tuples(st.just(kind), ANY_KIND[kind]))
METADATA_KEYS = [
    *LLAMA_ENTRIES,
    *("general.alignment", "split.count", "llama.expert_count", "llama.attn_logit_softcapping"),
    *(f"general.sampling.{key}" for key in ("temp", "top_k", "top_p", "min_p", "penalty_repeat")),
    *(f"llama.attention.{key}" for key in ("sliding_window", "key_length", "value_length", "scale")),
    *(f"llama.rope.scaling.{key}" for key in ("type", "factor", "original_context_length", "attn_factor")),
    *("llama.rope.scaling.yarn_beta_fast", "llama.rope.scaling.yarn_beta_slow", "llama.rope.scale_linear"),
    *("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_bos_token"),
]


@quick
@given(st.dictionaries(st.sampled_from(METADATA_KEYS), ANY_VALUE, min_size=1, max_size=3))
def test_any_values_in_gguf_metadata(tmp_path: Path, values: dict[str, tuple[int, Any]]) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf_model(values))
    opens_or_is_refused(tmp_path / "model.gguf")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@long
@given(DAMAGES, st.sampled_from([GGUF_HEADER, 1.0]))
def test_many_damaged_gguf_files(tmp_path: Path, damages: list[Damage], part: float) -> None:
    check_gguf(tmp_path, damages, part)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@long
@given(DAMAGES, st.sampled_from(["model.safetensors", "config.json", "tokenizer_config.json"]))
def test_many_damaged_hugging_face_directories(tmp_path: Path, damages: list[Damage], name: str) -> None:
    check_safetensors(tmp_path, damages, name)
