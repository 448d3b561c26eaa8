"""Writes a checkpoint with the geometry and quantization of RedHatAI/Llama-3.2-1B-FP8, and random weights.

That checkpoint is the FP8 example of vLLM's documentation. This one needs no download: 16 layers of hidden
size 2048, FP8 linears with one static scale for each matrix and its input (compressed-tensors,
float-quantized), bf16 embeddings that are the output head too. It says nothing, at the speed of the real one.

    python bench/make_llama_fp8.py DIR
    python -m ozone.entrypoints.api_server --model DIR -O1 --max-model-len 8192
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ozone.config.args import DEFAULT_MODEL
from ozone.engine.tokenizer.gguf_vocabulary import read_vocabulary
from ozone.engine.tokenizer.rebuild import rebuild
from ozone.errors import OzoneError
from ozone.weights.model_files import open_model

# Written at a time: what the script needs of memory is a few of these.
_CHUNK = 1 << 24
_SPECIAL_TOKENS = 256
_LARGEST_E4M3 = 448.0
# Inputs of linears behind a norm are about normal; so many times their deviation is taken for the largest.
_DEVIATIONS = 5.0
_WEIGHT_DEVIATION = 0.02


@dataclass(frozen=True)
class Geometry:
    """Sizes of a Llama; the defaults are those of Llama 3.2 1B."""

    hidden: int = 2048
    intermediate: int = 8192
    layers: int = 16
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    vocabulary: int = 128256
    context: int = 131072


@dataclass(frozen=True)
class Tensor:
    """What is to be written: a type of safetensors, a shape, and where the numbers come from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    table: NDArray[Any]  # elements are drawn from it; one element: all are that one

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.table.itemsize


def main(argv: list[str] | None = None) -> int:
    """Write it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write to; made if missing")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    namespace = parser.parse_args(argv)
    try:
        write_checkpoint(namespace.folder, Geometry(), namespace.seed)
    except (OzoneError, OSError) as error:
        print(f"make_llama_fp8: {error}", file=sys.stderr)
        return 2
    print(namespace.folder)
    return 0


def write_checkpoint(folder: Path, geometry: Geometry, seed: int) -> None:
    """Config, tokenizer and weights.

    Raises: `OzoneError` where the default model, which lends its vocabulary, is not installed; `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_special = geometry.vocabulary - _SPECIAL_TOKENS
    _write_json(folder / "config.json", config(geometry))
    generation = {"bos_token_id": first_special, "eos_token_id": first_special + 1, "do_sample": True}
    _write_json(folder / "generation_config.json", {**generation, "temperature": 0.6, "top_p": 0.9})
    _write_json(folder / "tokenizer.json", tokenizer(geometry.vocabulary))
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    _write_json(folder / "tokenizer_config.json", {**special, "add_bos_token": True})
    _write_weights(folder / "model.safetensors", list(tensors(geometry)), seed)


def config(geometry: Geometry) -> dict[str, Any]:
    """``config.json`` as of the original."""
    first_special = geometry.vocabulary - _SPECIAL_TOKENS
    arguments = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None,
        "num_bits": 8,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "tensor",
        "symmetric": True,
        "type": "float",
    }
    group = {
        "input_activations": arguments,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": arguments,
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": first_special,
        "eos_token_id": first_special + 1,
        "head_dim": geometry.head_dim,
        "hidden_act": "silu",
        "hidden_size": geometry.hidden,
        "initializer_range": _WEIGHT_DEVIATION,
        "intermediate_size": geometry.intermediate,
        "max_position_embeddings": geometry.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": geometry.heads,
        "num_hidden_layers": geometry.layers,
        "num_key_value_heads": geometry.kv_heads,
        "pretraining_tp": 1,
        "quantization_config": {
            "config_groups": {"group_0": group},
            "format": "float-quantized",
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": geometry.vocabulary,
    }


def tokenizer(vocabulary: int) -> dict[str, Any]:
    """The default model's ``tokenizer.json``, behind its tokens others that no text becomes, and special
    tokens like Llama's at the end.
    """
    metadata = open_model(DEFAULT_MODEL).gguf_metadata
    assert metadata is not None, "the default model is a GGUF file"
    content = rebuild(read_vocabulary(metadata))
    vocab = content["model"]["vocab"]
    first_special = vocabulary - _SPECIAL_TOKENS
    for token in range(len(vocab), first_special):
        vocab[f"\u0120unused{token}"] = token  # the byte-level spelling of a space
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    names += [f"<|reserved_special_token_{i}|>" for i in range(_SPECIAL_TOKENS - len(names))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] += [
        {"id": first_special + i, "content": name, **flags} for i, name in enumerate(names)
    ]
    return content


def tensors(geometry: Geometry) -> Iterator[Tensor]:
    """Every tensor of the checkpoint, in the order of its file."""
    fp8, weight_scale = _fp8_table()
    bf16 = _to_bf16(_normal_table() * np.float32(_WEIGHT_DEVIATION))
    one = _to_bf16(np.ones(1, np.float32))
    input_scale = _to_bf16(np.full(1, _DEVIATIONS / _LARGEST_E4M3, np.float32))
    hidden, queries = geometry.hidden, geometry.heads * geometry.head_dim
    keys, intermediate = geometry.kv_heads * geometry.head_dim, geometry.intermediate
    linears = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    yield Tensor("model.embed_tokens.weight", "BF16", (geometry.vocabulary, hidden), bf16)
    for layer in range(geometry.layers):
        prefix = f"model.layers.{layer}."
        yield Tensor(f"{prefix}input_layernorm.weight", "BF16", (hidden,), one)
        yield Tensor(f"{prefix}post_attention_layernorm.weight", "BF16", (hidden,), one)
        for name, shape in linears.items():
            yield Tensor(f"{prefix}{name}.weight", "F8_E4M3", shape, fp8)
            yield Tensor(f"{prefix}{name}.weight_scale", "BF16", (1,), weight_scale)
            yield Tensor(f"{prefix}{name}.input_scale", "BF16", (1,), input_scale)
    yield Tensor("model.norm.weight", "BF16", (hidden,), one)


def _normal_table() -> NDArray[np.float32]:
    """As many normal numbers as 16 bits choose from."""
    return np.random.default_rng(0).standard_normal(1 << 16, np.float32)


def _fp8_table() -> tuple[NDArray[Any], NDArray[Any]]:
    """Normal weights on the grid of e4m3, and the scale that makes them small again."""
    codes = np.arange(127, dtype=np.uint8)  # 127 is NaN
    exponents, mantissas = codes >> 3, codes & 7
    subnormal, scaled = mantissas / 8 * 2.0**-6, (1 + mantissas / 8) * 2.0 ** (exponents - 7.0)
    values = np.where(exponents == 0, subnormal, scaled)
    normal = _normal_table()
    unit = _LARGEST_E4M3 / np.abs(normal).max()
    nearest = np.searchsorted((values[1:] + values[:-1]) / 2, np.abs(normal) * unit).astype(np.uint8)
    scale = _to_bf16(np.full(1, _WEIGHT_DEVIATION / unit, np.float32))
    return nearest | (np.signbit(normal).astype(np.uint8) << 7), scale


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def _write_weights(path: Path, listed: list[Tensor], seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in listed:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    bar = tqdm(total=end, unit="B", unit_scale=True, desc="weights", disable=None, leave=False)
    with path.open("wb") as file, bar:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in listed:
            for start in range(0, tensor.size, _CHUNK):
                count = min(_CHUNK, tensor.size - start)
                part = tensor.table[random.integers(0, len(tensor.table), count, np.uint16)]
                file.write(part.tobytes())
                bar.update(part.nbytes)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
