"""Tiny checkpoints of every quantized format, and what their matrices mean.

compressed-tensors matrices are written and read back by that package; the other formats are packed here, bit
by bit, from what their tools document.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from emulation import (
    Quantized,
    Rounding,
    emulate,
    fp8_group,
    fp8_static,
    fp8_token,
    int8_static,
    int8_token,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

Quantizer = Callable[[str, Tensor], Quantized]


@dataclass(frozen=True)
class Format:
    """A way to quantize a model.

    Attributes:
        config: the ``quantization_config``.
        quantize: from a linear's name and weight to what the checkpoint has of it.
        ignored: linears left as they are: ends of their names.
    """

    config: Mapping[str, Any]
    quantize: Quantizer
    ignored: tuple[str, ...] = field(default=("lm_head",))


def save_quantized(model: PreTrainedModel, folder: Path, format: Format) -> PreTrainedModel:
    """Write `model` in that format, and return its emulation, which is `model` itself, changed."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    quantized: dict[str, Quantized] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(format.ignored):
            matrix = format.quantize(name, tensors.pop(f"{name}.weight"))
            quantized[name] = matrix
            tensors |= {f"{name}.{part}": value.contiguous() for part, value in matrix.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(format.config)
    (folder / "config.json").write_text(json.dumps(config))
    return emulate(model, quantized)


# --- compressed-tensors -------------------------------------------------------------------------------------


def compressed_tensors(
    layout: str,
    weights: dict[str, Any],
    inputs: dict[str, Any] | None = None,
    *,
    input_scale: Callable[[str], float] | None = None,
    ignored: tuple[str, ...] = ("lm_head",),
    ignore: tuple[str, ...] | None = None,
    scale_type: torch.dtype = torch.float32,
) -> Format:
    """`ignore` says in the config's words what `ignored` says in ends of names."""
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
    }
    scheme = QuantizationScheme.model_validate(group)
    compressor = BaseCompressor.get_value_from_registry(layout)

    def quantize(name: str, weight: Tensor) -> Quantized:
        scale, zero_point = _observed(weight, scheme.weights)
        state = {"weight": weight, "weight_scale": scale.to(scale_type), "weight_zero_point": zero_point}
        stored = compressor.compress(state, scheme)
        as_float = {**stored, "weight_scale": stored["weight_scale"].to(torch.float32)}
        meant = compressor.decompress(as_float, scheme)["weight"]
        stored.pop("weight_zero_point", None) if weights.get("symmetric", True) else None
        rounding = rounding_of(inputs, None if input_scale is None else input_scale(name))
        if input_scale is not None:
            stored["input_scale"] = torch.tensor([input_scale(name)])
        return Quantized(stored, meant[: len(weight), : weight.shape[1]], rounding)

    config = {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignored if ignore is None else ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
    return Format(config, quantize, ignored)


def _observed(weight: Tensor, arguments: Any) -> tuple[Tensor, Tensor]:
    """Scales and zero points that the package derives from the least and the greatest weights."""
    rows, columns = weight.shape
    if arguments.strategy == "block":
        padded = functional.pad(weight, (0, -columns % 128, 0, -rows % 128))
        blocks = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).transpose(1, 2).flatten(2)
    elif arguments.strategy == "group":
        blocks = weight.unflatten(1, (-1, arguments.group_size))
    elif arguments.strategy == "channel":
        blocks = weight.unsqueeze(1)
    else:
        blocks = weight.reshape(1, -1)
    return calculate_qparams(blocks.amin(-1), blocks.amax(-1), arguments)


def rounding_of(inputs: Mapping[str, Any] | None, input_scale: float | None) -> Rounding:
    """What ``input_activations`` says, with the scale that a static one has."""
    if inputs is None:
        return lambda x: x
    floating = inputs["type"] == "float"
    if input_scale is not None:
        return (fp8_static if floating else int8_static)(input_scale)
    if inputs["strategy"] == "group":
        return fp8_group
    return fp8_token if floating else int8_token


def read_emulation(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """`model` changed to what the checkpoint of `folder` means, of one group of linears."""
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    group = config["config_groups"]["group_0"]
    scheme = QuantizationScheme.model_validate(group)
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    matrices = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:  # norms, which may have learned
                parameter.copy_(tensors[name])
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            state = parts_of(name, tensors)
            scale = state.pop("input_scale", None)
            rounding = rounding_of(group["input_activations"], None if scale is None else float(scale))
            state["weight_scale"] = state["weight_scale"].to(torch.float32)
            rows, columns = module.weight.shape
            meant = compressor.decompress(state, scheme)["weight"][:rows, :columns]
            matrices[name] = Quantized({}, meant, rounding)
    return emulate(model, matrices)


def parts_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint stores for one linear, by name after the linear's own."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


# --- quant_method: fp8 --------------------------------------------------------------------------------------


def fp8_blocks(skipped: list[str], ignored: tuple[str, ...]) -> Format:
    def quantize(name: str, weight: Tensor) -> Quantized:
        rows, columns = weight.shape
        padded = functional.pad(weight, (0, -columns % 128, 0, -rows % 128))
        blocks = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128))
        scale = blocks.abs().amax((1, 3)) / 448
        spread = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        numbers = (weight / spread).to(torch.float8_e4m3fn)
        stored = {"weight": numbers, "weight_scale_inv": scale}
        return Quantized(stored, numbers.to(torch.float32) * spread, fp8_group)

    config = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": skipped,
    }
    return Format(config, quantize, ignored)


def fp8_tensors(scheme: str, input_scale: Callable[[str], float] | None = None) -> Format:
    def quantize(name: str, weight: Tensor) -> Quantized:
        scale = weight.abs().max() / 448
        numbers = (weight / scale).to(torch.float8_e4m3fn)
        stored = {"weight": numbers, "weight_scale": scale}
        rounding = fp8_token
        if input_scale is not None:
            stored["input_scale"] = torch.tensor(input_scale(name))
            rounding = fp8_static(input_scale(name))
        return Quantized(stored, numbers.to(torch.float32) * scale, rounding)

    config = {"quant_method": "fp8", "activation_scheme": scheme, "ignored_layers": ["lm_head"]}
    return Format(config, quantize)


# --- GPTQ and AWQ -------------------------------------------------------------------------------------------


def _integers(
    weight: Tensor, groups: Tensor, *, symmetric: bool, most_zero: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Integers (rows, columns), scales and zero points (rows, groups), for the group of each column."""
    rows, count = len(weight), int(groups.max()) + 1
    low, high = torch.zeros(rows, count), torch.zeros(rows, count)
    for group in range(count):
        members = weight[:, groups == group]
        low[:, group], high[:, group] = members.amin(1).clamp(max=0), members.amax(1).clamp(min=0)
    if symmetric:
        scales = torch.maximum(-low, high) / 7.5
        zeros = torch.full_like(scales, 8.0)
    else:
        scales = (high - low) / 15
        zeros = (-low / scales).round().clamp(1, most_zero)
    scales = scales.to(torch.float16).to(torch.float32)
    integers = (weight / scales[:, groups] + zeros[:, groups]).round().clamp(0, 15)
    return integers, scales, zeros


def _words(nibbles: Tensor) -> Tensor:
    """Eight integers of 4 bits along the first dimension to a word, the first in the lowest bits."""
    groups = nibbles.to(torch.int64).unflatten(0, (-1, 8))
    shifts = (4 * torch.arange(8)).view(1, 8, *[1] * (nibbles.dim() - 1))
    words = (groups << shifts).sum(1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def gptq(
    group_size: int,
    *,
    symmetric: bool = True,
    ordered: bool = False,
    version: int = 1,
    stored_index: bool = True,
    says: Mapping[str, Any] | None = None,
    same_order: bool = True,
) -> Format:
    """`ordered`: columns get groups by the size of their activations, as with act-order."""

    def quantize(name: str, weight: Tensor) -> Quantized:
        columns = weight.shape[1]
        groups = torch.arange(columns) // (columns if group_size == -1 else group_size)
        if ordered:
            parent = name.rpartition(".")[0] if same_order else name
            order = list(range(columns))
            random.Random(parent).shuffle(order)
            groups = groups[torch.tensor(order)]
        integers, scales, zeros = _integers(
            weight, groups, symmetric=symmetric, most_zero=16 if version == 1 else 15
        )
        meant = (integers - zeros[:, groups]) * scales[:, groups]
        stored = {
            "qweight": _words(integers.t()),
            "qzeros": _words(zeros - (1 if version == 1 else 0)).t(),
            "scales": scales.t().to(torch.float16),
        }
        if stored_index:
            stored["g_idx"] = groups.to(torch.int32)
        return Quantized(stored, meant)

    config = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group_size,
        "desc_act": ordered,
        "sym": symmetric,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        **(says or {}),
    }
    return Format(config, quantize)


def awq(group_size: int, *, zero_point: bool = True, skipped: list[str] | None = None) -> Format:
    def quantize(name: str, weight: Tensor) -> Quantized:
        groups = torch.arange(weight.shape[1]) // group_size
        integers, scales, zeros = _integers(weight, groups, symmetric=not zero_point, most_zero=15)
        meant = (integers - zeros[:, groups]) * scales[:, groups]
        order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])

        def packed(numbers: Tensor) -> Tensor:
            return _words(numbers.unflatten(0, (-1, 8))[:, order].flatten(0, 1)).t()

        stored = {"qweight": packed(integers), "scales": scales.t().to(torch.float16)}
        if zero_point:
            stored["qzeros"] = packed(zeros)
        return Quantized(stored, meant)

    config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "version": "gemm",
        "zero_point": zero_point,
        "modules_to_not_convert": skipped,
    }
    return Format(config, quantize, ("lm_head", *(skipped or [])))
