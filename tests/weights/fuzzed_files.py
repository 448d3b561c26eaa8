"""Damaged model files for fuzzing: small sound ones, in which values, lengths, types and bytes are changed.

A case is a number: the same one makes the same files on every machine.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tiny_llama import save_tiny_llama
from weights_helpers import (
    ARRAY,
    F32,
    I32,
    LLAMA_ENTRIES,
    STRING,
    U32,
    gguf_bytes,
    gguf_entry,
    gguf_string,
    gguf_tensor_row,
    gguf_value,
    llama_tensors,
    safetensors_bytes,
)

Files = dict[str, bytes]
Random = random.Random

_INTEGERS = [
    0,
    1,
    -1,
    2,
    7,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
]
_FLOATS = [0.0, -0.0, 0.5, -1.5, 1e-300, 1e308, float("nan"), float("inf"), -float("inf")]
_TEXTS = [
    "",
    "a",
    "\x1b[2J\x07",
    "\u202e\n\r",
    "\ud800",
    "\x00",
    "é" * 3000,
    "(a+)+$",
    "((((",
    "<0x0A>",
    "default",
    "../../etc/passwd",
    "{{ x",
    "{% for a in range(10**9) %}b{% endfor %}",
]
_KINDS: list[Any] = [None, True, False, [], {}, [[]], {"a": 1}, [None], {"type": "x"}]


def _deep(depth: int, letter: str) -> Any:
    """Lists or objects within each other, as JSON text cannot be made of them by `json.dumps`."""
    return _Raw(letter * depth + {"[": "]", '{"a":': "1" + "}"}[letter] * (depth if letter == "[" else 1))


class _Raw(str):
    """JSON that is written as it is."""


def _hostile(rng: Random) -> Any:
    return rng.choice(
        [
            lambda: rng.choice(_INTEGERS) * rng.choice([1, 1, -1]),
            lambda: rng.choice(_FLOATS),
            lambda: rng.choice(_TEXTS),
            lambda: rng.choice(_KINDS),
            lambda: [rng.choice(_INTEGERS) for _ in range(rng.choice([1, 2, 5, 2000]))],
            lambda: rng.choice([_deep(100_000, "["), _deep(900, "["), _deep(100_000, '{"a":')]),
            lambda: _Raw(
                rng.choice(["1e999", "-1e999", "1" * 5000, '"\\ud800"', "nul", "0x10", '{"a":1,"a":2}'])
            ),
            lambda: "x" * rng.choice([300, 100_000]),
        ]
    )()


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value; of long lists a few."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    places: list[tuple[Any, Any]] = []
    for key in keys if len(keys) < 60 else [*keys[:20], *keys[-20:]]:
        places.append((value, key))
        if isinstance(value[key], dict | list) and depth < 12:
            places += _places(value[key], depth + 1)
    return places


def _change(rng: Random, value: Any) -> None:
    """Change one place of a JSON value."""
    places = _places(value)
    if not places:
        return
    holder, key = rng.choice(places)
    old = holder[key]
    match rng.randrange(8):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(_TEXTS)] = holder.pop(key)
        case 2 if isinstance(old, list) and old:
            old.extend(old[: rng.choice([1, 3])] * rng.choice([1, 500]))
        case 3 if isinstance(old, int | float) and not isinstance(old, bool):
            holder[key] = rng.choice(
                [old + 1, old - 1, -old, old * 2, old * 2**20, old * 2**40, old + 0.5, str(old)]
            )
        case 4:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place])) if not isinstance(other[place], _Raw) else 1
        case 5 if isinstance(old, str):
            holder[key] = rng.choice([old + "x", old[:-1], old.upper(), old * 1000, "\u200b" + old])
        case _:
            holder[key] = _hostile(rng)


def _written(value: Any) -> bytes:
    """JSON in which `_Raw` texts stand as they are."""
    raws: list[str] = []

    def marked(one: Any) -> Any:
        if isinstance(one, _Raw):
            raws.append(str(one))
            return f"\x01raw{len(raws) - 1}\x01"
        if isinstance(one, dict):
            return {str(key): marked(inner) for key, inner in one.items()}
        return [marked(inner) for inner in one] if isinstance(one, list) else one

    text = json.dumps(marked(value), ensure_ascii=True)
    for place, raw in enumerate(raws):
        text = text.replace(f'"\\u0001raw{place}\\u0001"', raw)
    return text.encode()


def _changed_json(rng: Random, data: bytes) -> bytes:
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        _change(rng, value)
    return _written(value)


def _changed_bytes(rng: Random, data: bytes, part: int | None = None) -> bytes:
    """Bytes flipped, cut out, put in or repeated, within the first `part`."""
    edge = len(data) if part is None else part
    head, rest = bytearray(data[:edge]), data[edge:]
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(len(head) + 1)
        match rng.randrange(6):
            case 0:
                return bytes(head[:place])
            case 1 if place < len(head):
                head[place] ^= 1 << rng.randrange(8)
            case 2:
                special = rng.choice([0, 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1])
                head[place : place + 8] = struct.pack("<Q", special)
            case 3:
                del head[place : place + rng.randint(1, 40)]
            case 4:
                head[place:place] = head[place : place + rng.randint(1, 40)]
            case _:
                head[place:place] = rng.choice([b"\x00", b"\xff", b'"', b"{", b"]", b",", rng.randbytes(8)])
    return bytes(head) + rest


@cache
def _sound() -> Files:
    """A tiny model's folder, with every small file that a folder may have."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_llama(folder)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"])
    config["rope_scaling"] = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    files["config.json"] = json.dumps(config).encode()
    generation = {
        "eos_token_id": [1, 2],
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
    }
    files["generation_config.json"] = json.dumps(generation).encode()
    tokenizer = json.loads(files["tokenizer_config.json"])
    tokenizer |= {
        "add_bos_token": True,
        "unk_token": {"content": "<s>", "lstrip": False},
        "model_max_length": 256,
    }
    files["tokenizer_config.json"] = json.dumps(tokenizer).encode()
    return files


# Parts of a tokenizer.json that the tiny model's lacks, each of which may replace its own.
_PARTS: dict[str, list[Any]] = json.loads(Path(__file__).with_name("tokenizer_parts.json").read_text())


def _tokenizer(rng: Random, data: bytes) -> bytes:
    value = json.loads(data)
    for part in rng.sample(sorted(_PARTS), rng.choice([0, 1, 1, 2])):
        value[part] = copy.deepcopy(rng.choice(_PARTS[part]))
    # Most of a tokenizer.json is its vocabulary; it shall not take most of the changes.
    part = rng.choice([*value, "all"])
    if isinstance(value.get(part), dict | list) and value[part]:
        _change(rng, value[part])
    else:
        _change(rng, value)
    return _written(value)


def _header(rng: Random, data: bytes) -> bytes:
    """A safetensors file whose header, or its length, is changed."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        return _changed_bytes(rng, data, 8 + size)
    header = _changed_json(rng, data[8 : 8 + size])
    length = rng.choice([None] * 6 + [0, 1, len(header) - 1, len(header) + 1, 2**40, 2**63, 2**64 - 1])
    return safetensors_bytes(header, data[8 + size :], length=length)


def _config(rng: Random, data: bytes) -> bytes:
    value = json.loads(data)
    families = ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3", "Gemma3Text", "Nothing"]
    value["architectures"] = [f"{rng.choice(families)}ForCausalLM"]
    extra = {
        "quantization_config": {
            "quant_method": rng.choice(["fp8", "awq", "gptq", "compressed-tensors", "x"]),
            "bits": 4,
            "group_size": 128,
        },
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 16,
        "text_config": dict(value),
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4},
        "attention_bias": True,
        "head_dim": 8,
        "partial_rotary_factor": 0.5,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": None,
    }
    for name in rng.sample(sorted(extra), rng.choice([0, 1, 2, 3])):
        value[name] = extra[name]
    return _changed_json(rng, json.dumps(value).encode())


def folder_case(rng: Random, name: str, change: Callable[[Random, bytes], bytes]) -> Files:
    """A folder in which the file `name` is changed: its values mostly, its bytes now and then."""
    files = dict(_sound())
    data = files.get(name, b"{}")
    files[name] = _changed_bytes(rng, data) if rng.random() < 0.15 else change(rng, data)
    return files


def _template(rng: Random, data: bytes) -> bytes:
    value = json.loads(data)
    pieces = [
        "{{ messages }}",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% if",
        "{{ x.__class__ }}",
        "{{ 'a' * 10**9 }}",
        "{% for a in range(10**9) %}{{ a }}{% endfor %}",
        "{{ messages[0].content | upper }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% set x = [1] %}",
        "{{ ''.join(['a'] * 9) }}",
        "{{ raise_exception('\x1b[2J') }}",
        "{#",
        "{{ bos_token }}",
        "{% include 'a' %}",
        "{{ '%999999999d' % 1 }}",
        "{{ (" * 300,
        "{% if 1 %}" * 300,
        "{{ 2 ** 99999999 }}",
        "{{ namespace(a=1).a }}",
        "\ud800",
        "{{ [1] | sum }}",
    ]
    value["chat_template"] = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 5)))
    if rng.random() < 0.2:
        value["chat_template"] = [
            {"name": rng.choice(["default", "x", 1]), "template": value["chat_template"]}
        ]
    return _written(value)


_GGUF_EXTRA: dict[str, tuple[int, Any]] = {
    "general.alignment": (U32, 32),
    "split.count": (U32, 2),
    "general.file_type": (U32, 2),
    "llama.rope.scaling.type": (STRING, "yarn"),
    "llama.rope.scaling.factor": (F32, 4.0),
    "llama.attention.sliding_window": (U32, 16),
    "llama.attention.key_length": (U32, 8),
    "llama.vocab_size": (U32, 262),
    "tokenizer.ggml.bos_token_id": (U32, 256),
    "tokenizer.ggml.add_bos_token": (7, 1),
    "tokenizer.ggml.padding_token_id": (U32, 0),
    "general.sampling.temp": (F32, 0.5),
}


@cache
def _gguf_entries(kind: str) -> dict[str, tuple[int, Any]]:
    """Metadata with a vocabulary that works: byte-level BPE, or sentencepiece's with byte tokens."""
    if kind == "gpt2":
        vocab = json.loads(_sound()["tokenizer.json"])["model"]
        tokens = sorted(vocab["vocab"], key=vocab["vocab"].get)
        merges = [" ".join(pair) for pair in vocab["merges"]]
        more: dict[str, tuple[int, Any]] = {
            "tokenizer.ggml.pre": (STRING, "smollm"),
            "tokenizer.ggml.merges": (ARRAY, (STRING, merges)),
        }
    else:
        tokens = [
            "<unk>",
            "<s>",
            "</s>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
            "\u2581",
            "a",
            "\u2581a",
        ]
        more = {"tokenizer.ggml.scores": (ARRAY, (F32, [-float(i) for i in range(len(tokens))]))}
    types = [3, 3, *[1] * (len(tokens) - 2)]
    return {
        **LLAMA_ENTRIES,
        "tokenizer.ggml.model": (STRING, kind),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
        "tokenizer.ggml.eos_token_id": (U32, 1),
        **more,
    }


_SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def _number(rng: Random, kind: int) -> Any:
    size = struct.calcsize("<" + _SIZES[kind])
    return struct.unpack(
        "<" + _SIZES[kind], rng.choice([b"\0" * size, b"\xff" * size, b"\x7f" * size, rng.randbytes(size)])
    )[0]


def _gguf_hostile(rng: Random, depth: int = 0) -> tuple[int, Any]:
    kind = rng.choice([*_SIZES, STRING, ARRAY])
    if kind == STRING:
        return kind, rng.choice([*(text for text in _TEXTS if text != "\ud800"), b"\xff\xfe", "x" * 100_000])
    if kind == ARRAY:
        of, _ = element = _gguf_hostile(rng, depth + 1) if depth < 3 else (U32, 1)
        return kind, (of, [element[1]] * rng.choice([0, 1, 3, 1000]) if depth < 1 else [element[1]])
    return kind, _number(rng, kind)


def _changed_entry(rng: Random, entry: tuple[int, Any]) -> tuple[int, Any]:
    kind, value = entry
    if kind == ARRAY and rng.random() < 0.7:
        of, items = value
        items = list(items)
        place = rng.randrange(len(items)) if items else 0
        match rng.randrange(6):
            case 0:
                items = items[:place]
            case 1:
                items = items * rng.choice([2, 50])
            case 2 if items:
                items[place] = items[0]
            case 3 if of == STRING and items:
                items[place] = rng.choice([text for text in _TEXTS if text != "\ud800"] + [b"\xff"])
            case 4 if of in _SIZES and items:
                items[place] = _number(rng, of)
            case _:
                rng.shuffle(items)
        return kind, (of, items)
    if kind in _SIZES and rng.random() < 0.6:
        return kind, _number(rng, kind)
    return _gguf_hostile(rng)


def _gguf_rows(rng: Random, num_tokens: int, damage: bool) -> tuple[list[bytes], bytes]:
    rows, data = [], b""
    tensors = llama_tensors()
    tensors["token_embd.weight"] = np.zeros((num_tokens, 32), np.float32)
    hit = rng.choice(sorted(tensors)) if damage else ""
    huge = [0, 1, 3, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64 - 1]
    for name, array in tensors.items():
        data += b"\0" * (-len(data) % 32)
        dims, kind, offset = list(array.shape[::-1]), 0, len(data)
        shown: str | bytes = name
        if name == hit:
            match rng.randrange(6):
                case 0:
                    dims[rng.randrange(len(dims))] = rng.choice(huge)
                case 1:
                    dims = [rng.choice([1, *dims, *huge]) for _ in range(rng.choice([0, 1, 2, 4, 5, 200]))]
                case 2:
                    kind = rng.choice([*range(45), 2**31, 2**32 - 1])
                case 3:
                    offset = rng.choice([offset + 1, offset + 32, *huge])
                case 4:
                    shown = rng.choice(["", "x" * 100, "output_norm.weight", b"\xff", "\x1b[2J", name + "\0"])
                case _:
                    continue
        rows.append(gguf_tensor_row(shown, dims, kind, offset))  # type: ignore[arg-type]
        data += array.tobytes()
    return rows, data


def gguf_case(rng: Random) -> Files:
    """A GGUF file with metadata, tensor rows, counts or bytes changed."""
    entries = dict(_gguf_entries(rng.choice(["gpt2", "llama"])))
    num_tokens = len(entries["tokenizer.ggml.tokens"][1][1])
    way = rng.randrange(10)
    for key in rng.sample(sorted(_GGUF_EXTRA), rng.choice([0, 1, 2])):
        entries[key] = _GGUF_EXTRA[key]
    if way < 6:
        # The vocabulary is read last: changes of it alone get that far.
        pool = sorted(key for key in entries if way < 2 or key.startswith("tokenizer"))
        for key in rng.sample(pool, rng.choice([1, 1, 2, 3])):
            entries[key] = _changed_entry(rng, entries[key])
    if way == 6:
        del entries[rng.choice(sorted(entries))]
    rows, data = _gguf_rows(rng, num_tokens, way in (7, 8))
    parts = [gguf_entry(key, *entry) for key, entry in entries.items()]
    if way == 9 and rng.random() < 0.3:  # lengths that lie
        key = rng.choice(sorted(entries))
        parts.append(
            gguf_string(key + "x")
            + struct.pack("<IIQ", ARRAY, rng.choice([8, 4, 9, 99]), rng.choice([2**30, 2**62, 2**64 - 1]))
        )
        parts[0] += gguf_value(U32, 7)
    counts = None
    if rng.random() < 0.05:
        counts = (rng.choice([0, len(rows) + 1, 2**31, 2**63]), rng.choice([len(parts), 0, 2**40, 2**64 - 1]))
    whole = gguf_bytes(parts, rows, data, counts=counts, version=rng.choice([3] * 60 + [0, 1, 2, 4, 2**31]))
    if way == 9:
        whole = _changed_bytes(rng, whole, rng.choice([64, len(whole) - len(data), None]))
    return {"model.gguf": whole}


CASES: dict[str, Callable[[Random], Files]] = {
    "gguf": gguf_case,
    "config": lambda rng: folder_case(rng, "config.json", _config),
    "safetensors": lambda rng: folder_case(rng, "model.safetensors", _header),
    "tokenizer": lambda rng: folder_case(rng, "tokenizer.json", _tokenizer),
    "tokenizer_config": lambda rng: folder_case(rng, "tokenizer_config.json", _changed_json),
    "generation_config": lambda rng: folder_case(rng, "generation_config.json", _changed_json),
    "chat_template": lambda rng: folder_case(rng, "tokenizer_config.json", _template),
}


def case(kind: str, number: int) -> Files:
    """The files of a case."""
    return CASES[kind](Random(f"{kind} {number}"))
