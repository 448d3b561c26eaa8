"""Writes small model files, sound and unsound, byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {
    U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B",
    U64: "<Q", I64: "<q", F64: "<d",
}  # fmt: skip


def gguf_string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_value(kind: int, value: Any) -> bytes:
    """`value` of an array is (element kind, list)."""
    if kind == STRING:
        return gguf_string(value)
    if kind == ARRAY:
        of, items = value
        return struct.pack("<IQ", of, len(items)) + b"".join(gguf_value(of, item) for item in items)
    return struct.pack(_FORMATS[kind], value)


def gguf_entry(key: str, kind: int, value: Any) -> bytes:
    return gguf_string(key) + struct.pack("<I", kind) + gguf_value(kind, value)


def gguf_tensor_row(name: str, dims: Sequence[int], type_id: int, offset: int) -> bytes:
    return (
        gguf_string(name)
        + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)
    )  # fmt: skip


def gguf_bytes(
    entries: Sequence[bytes],
    rows: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A GGUF file of ready-made parts; `counts` overrides (tensors, entries)."""
    tensors, keys = counts or (len(rows), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(entries) + b"".join(rows)
    return head + b"\0" * (-len(head) % alignment) + data


LLAMA_ENTRIES: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "llama.block_count": (U32, 2),
    "llama.context_length": (U32, 128),
    "llama.embedding_length": (U32, 32),
    "llama.feed_forward_length": (U32, 64),
    "llama.attention.head_count": (U32, 4),
    "llama.attention.head_count_kv": (U32, 2),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
    "llama.rope.freq_base": (F32, 10000.0),
    "llama.rope.dimension_count": (U32, 8),
    "tokenizer.ggml.model": (STRING, "gpt2"),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "é", "</s>"] * 4)),
    "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * 16)),
    "tokenizer.ggml.eos_token_id": (U32, 3),
    "tokenizer.chat_template": (STRING, "{{ messages }}"),
}


def gguf_model(
    changes: Mapping[str, tuple[int, Any] | None] = {},
    tensors: Mapping[str, np.ndarray] | None = None,
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A small llama GGUF; `changes` sets or (None) removes metadata, `tensors` replaces the float ones."""
    entries = {**LLAMA_ENTRIES, **changes}
    if alignment != 32:
        entries["general.alignment"] = (U32, alignment)
    tensors = llama_tensors() if tensors is None else tensors
    rows, data = [], b""
    for name, array in tensors.items():
        data += b"\0" * (-len(data) % alignment)
        rows.append(gguf_tensor_row(name, array.shape[::-1], TYPE_IDS[array.dtype.str], len(data)))
        data += array.tobytes()
    parts = [gguf_entry(key, *entry) for key, entry in entries.items() if entry is not None]
    return gguf_bytes(parts, rows, data, version=version, alignment=alignment)


TYPE_IDS = {"<f4": 0, "<f2": 1, "|i1": 24, "<i2": 25, "<i4": 26, "<i8": 27, "<f8": 28}


def llama_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """GGUF-named tensors of a llama with 2 layers, 4 heads of 8, 2 key/value heads, 16 tokens."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (16, 32), "output_norm.weight": (32,)}
    for layer in range(2):
        block = f"blk.{layer}."
        shapes |= {
            block + "attn_norm.weight": (32,),
            block + "attn_q.weight": (32, 32),
            block + "attn_k.weight": (16, 32),
            block + "attn_v.weight": (16, 32),
            block + "attn_output.weight": (32, 32),
            block + "ffn_norm.weight": (32,),
            block + "ffn_gate.weight": (64, 32),
            block + "ffn_up.weight": (64, 32),
            block + "ffn_down.weight": (32, 64),
        }
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


LLAMA_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 128,
    "dtype": "float32",
}


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file of a header, JSON or ready-made, and the data that follows it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write_hf_model(folder: Path, config: Mapping[str, Any] = LLAMA_CONFIG) -> Path:
    """A directory in Hugging Face's layout with one small safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"model.norm.weight": np.ones(32, np.float32), "lm_head.weight": np.zeros((16, 32), np.float16)}
    header, data = {}, b""
    for name, array in weights.items():
        dtype = {"<f4": "F32", "<f2": "F16"}[array.dtype.str]
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    (folder / "model.safetensors").write_bytes(safetensors_bytes(header, data))
    return folder
