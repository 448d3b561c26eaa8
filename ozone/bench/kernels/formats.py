"""Formats of weights: how each is made, and multiplied, here and by torch; a new format is a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ozone.ops.linear import allocate_float, linear, logits, pack_float
from ozone.ops.linear_fp8 import GROUP, allocate_fp8, allocate_fp8_block_scales, linear_fp8
from ozone.ops.linear_gguf import GGUF_PACKINGS, gguf_segments, linear_gguf, pack_gguf
from ozone.ops.linear_int4 import allocate_int4, allocate_int4_scales, allocate_int4_zeros, linear_int4
from ozone.ops.linear_int8 import linear_int8, pack_int8

Tensors = tuple[Tensor, ...]

_BF16 = torch.bfloat16
_E4M3 = torch.float8_e4m3fn
_SCALE = 0.01


@dataclass(frozen=True)
class Product:
    """One way to compute a product.

    Attributes:
        weights: from rows and columns to what is read of a matrix, packed.
        inputs: from tokens and columns to the activations, with their scales.
        call: from inputs, weights and the number of rows to the result.
        max_tokens: with more it takes too long to be of interest.
    """

    weights: Callable[[int, int], Tensors]
    inputs: Callable[[int, int], Tensors]
    call: Callable[[Tensors, Tensors, int], object]
    max_tokens: int = 1 << 30


@dataclass(frozen=True)
class Format:
    """A way to store weights.

    Attributes:
        arithmetic: the kind of multiply-add that bounds wide products, of `ozone.bench.limits.PRODUCTS`.
        ours: our op.
        peers: others by name.
    """

    name: str
    arithmetic: str
    ours: Product
    peers: dict[str, Product] = field(default_factory=dict)


# ---- numbers ----


def _normal(dtype: torch.dtype, rows: int, cols: int) -> Tensors:
    return (torch.randn(rows, cols).to(dtype),)


def _integers(rows: int, cols: int) -> Tensor:
    return torch.randint(-127, 128, (rows, cols), dtype=torch.int8)


def _fp8(tokens: int, cols: int) -> Tensors:
    return torch.randn(tokens, cols).to(_E4M3), torch.full((1,), _SCALE)


def _fp8_by_group(tokens: int, cols: int) -> Tensors:
    return torch.randn(tokens, cols).to(_E4M3), torch.full((tokens, -(-cols // GROUP)), _SCALE)


def _int8_by_token(tokens: int, cols: int) -> Tensors:
    return _integers(tokens, cols), torch.full((tokens, 1), _SCALE)


def _int8_by_group(group: int, tokens: int, cols: int) -> Tensors:
    q = _integers(tokens, cols)
    scale = torch.full((tokens, cols // group), _SCALE)
    return q, scale, q.view(tokens, -1, 16).sum(-1, dtype=torch.int16)


def _random_bytes(packed: Tensor) -> Tensor:
    packed.view(torch.uint8).random_(0, 256)
    return packed


# ---- floats ----


def _float_weights(dtype: torch.dtype, rows: int, cols: int) -> Tensors:
    packed = allocate_float("bench", rows, cols, dtype)
    pack_float(packed, 0, *_normal(dtype, rows, cols))
    return (packed,)


def _linear(inputs: Tensors, weights: Tensors, rows: int) -> object:
    return linear(inputs[0], weights[0], None, None, rows)


def _logits(inputs: Tensors, weights: Tensors, rows: int) -> object:
    return logits(inputs[0], weights[0], None, rows)


def _torch_linear(inputs: Tensors, weights: Tensors, rows: int) -> object:  # noqa: ARG001
    return functional.linear(inputs[0], weights[0])


def _aten_linear(inputs: Tensors, weights: Tensors, rows: int) -> object:
    """ATen's own product, which torch leaves to oneDNN where that is enabled."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return _torch_linear(inputs, weights, rows)
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _onednn_packed_weights(rows: int, cols: int) -> Tensors:
    (weight,) = _normal(_BF16, rows, cols)
    return (torch.ops.mkldnn._reorder_linear_weight(weight, None),)


def _onednn_packed_linear(inputs: Tensors, weights: Tensors, rows: int) -> object:  # noqa: ARG001
    return torch.ops.mkldnn._linear_pointwise(inputs[0], weights[0], None, "none", [], "")


def _float(name: str, dtype: torch.dtype, arithmetic: str, peers: dict[str, Product]) -> Format:
    return Format(
        name, arithmetic, Product(partial(_float_weights, dtype), partial(_normal, dtype), _linear), peers
    )


def _plain(dtype: torch.dtype, *, onednn: bool = True, max_tokens: int = 1 << 30) -> Product:
    numbers = partial(_normal, dtype)
    return Product(numbers, numbers, _torch_linear if onednn else _aten_linear, max_tokens)


# ---- FP8 ----


def _fp8_weights(rows: int, cols: int) -> Tensors:
    packed = _random_bytes(allocate_fp8("bench", rows, cols))
    packed.view(torch.uint8).bitwise_and_(0xBF)  # small numbers, no NaN
    return packed, torch.full((rows,), _SCALE)


def _fp8_block_weights(rows: int, cols: int) -> Tensors:
    return _fp8_weights(rows, cols)[0], allocate_fp8_block_scales("bench", rows, cols).fill_(_SCALE)


def _linear_fp8(inputs: Tensors, weights: Tensors, rows: int) -> object:
    (x, x_scale), (packed, scale) = inputs, weights
    return linear_fp8(x, x_scale, packed, scale, None, None, rows, _BF16)


def _scaled_mm(inputs: Tensors, weights: Tensors, rows: int) -> object:  # noqa: ARG001
    return torch._scaled_mm(inputs[0], weights[0].t(), inputs[1], weights[1], out_dtype=_BF16)


_FP8_PEERS = {
    "oneDNN": Product(lambda rows, cols: (torch.randn(rows, cols).to(_E4M3), torch.ones(1)), _fp8, _scaled_mm)
}

# ---- INT8 ----


def _int8_weights(rows: int, cols: int) -> Tensors:
    return pack_int8([_integers(rows, cols)]), torch.full((rows,), _SCALE)


def _linear_int8(inputs: Tensors, weights: Tensors, rows: int) -> object:
    (x, x_scale), (packed, scale) = inputs, weights
    return linear_int8(x, x_scale, packed, scale, None, None, rows, _BF16)


def _onednn_int8_weights(rows: int, cols: int) -> Tensors:
    packed = torch.ops.onednn.qlinear_prepack(_integers(rows, cols), None)
    return packed, torch.full((rows,), _SCALE), torch.zeros(rows, dtype=torch.int64)


def _onednn_int8(inputs: Tensors, weights: Tensors, rows: int) -> object:  # noqa: ARG001
    product = torch.ops.onednn.qlinear_pointwise
    return product(inputs[0], _SCALE, 128, *weights, None, 1.0, 0, _BF16, "none", [], "")


def _int_mm(inputs: Tensors, weights: Tensors, rows: int) -> object:  # noqa: ARG001
    return torch._int_mm(inputs[0], weights[0].t())


def _int8pack_mm(inputs: Tensors, weights: Tensors, rows: int) -> object:  # noqa: ARG001
    return torch._weight_int8pack_mm(inputs[0], *weights)


_INT8_PEERS = {
    # Its fast products want unsigned activations.
    "oneDNN": Product(
        _onednn_int8_weights,
        lambda tokens, cols: (torch.randint(0, 256, (tokens, cols), dtype=torch.uint8),),
        _onednn_int8,
    ),
    "ATen int_mm": Product(lambda rows, cols: (_integers(rows, cols),), _int8_by_token, _int_mm),
    "ATen int8 weights": Product(
        lambda rows, cols: (_integers(rows, cols), torch.ones(rows, dtype=_BF16)),
        partial(_normal, _BF16),
        _int8pack_mm,
        max_tokens=32,
    ),
}

# ---- INT4 ----


def _int4_weights(group: int, rows: int, cols: int) -> Tensors:
    packed = _random_bytes(allocate_int4("bench", rows, cols))
    return packed, allocate_int4_scales("bench", rows, cols, group, _BF16).fill_(_SCALE)


def _int4_zero_weights(group: int, rows: int, cols: int) -> Tensors:
    zeros = allocate_int4_zeros("bench", rows, cols, group).random_(0, 16)
    return *_int4_weights(group, rows, cols), zeros


def _linear_int4(group: int, inputs: Tensors, weights: Tensors, rows: int) -> object:
    packed, scales, *zeros = weights
    return linear_int4(inputs[0], packed, scales, zeros[0] if zeros else None, None, None, rows, group)


def _aten_int4_weights(group: int, rows: int, cols: int) -> Tensors:
    integers = torch.randint(0, 16, (rows, cols), dtype=torch.int32)
    scales_and_zeros = torch.ones(cols // group, rows, 2, dtype=_BF16)
    return torch._convert_weight_to_int4pack_for_cpu(integers, 2), scales_and_zeros


def _aten_int4(group: int, inputs: Tensors, weights: Tensors, rows: int) -> object:  # noqa: ARG001
    return torch._weight_int4pack_mm_for_cpu(inputs[0], weights[0], group, weights[1])


def _int4(group: int, *, zeros: bool) -> Format:
    weights = partial(_int4_zero_weights if zeros else _int4_weights, group)
    bf16 = partial(_normal, _BF16)
    return Format(
        f"int4 g{group}{' zeros' if zeros else ''}",
        "bf16",
        Product(weights, bf16, partial(_linear_int4, group)),
        {"ATen": Product(partial(_aten_int4_weights, group), bf16, partial(_aten_int4, group))},
    )


# ---- GGUF ----


def _gguf_weights(kind: str, rows: int, cols: int) -> Tensors:
    packing = GGUF_PACKINGS[kind]
    blocks = np.random.default_rng(0).integers(
        0, 256, (rows * cols // packing.block_cols, packing.block_bytes), dtype=np.uint8
    )
    # Where a block has float16 numbers; of random bytes some would be infinite.
    for at in (208,) if kind == "Q6_K" else (0, 2) if packing.has_min else (0,):
        blocks[:, at : at + 2] = np.frombuffer(np.float16(_SCALE).tobytes(), np.uint8)
    return (pack_gguf([(kind, blocks)], cols),)


def _linear_gguf(kind: str, inputs: Tensors, weights: Tensors, rows: int) -> object:
    (x, x_scale, x_sums), (packed,) = inputs, weights
    segments = gguf_segments([(kind, rows)])
    return linear_gguf(x, x_scale, x_sums, packed, segments, None, None, rows, _BF16)


def _gguf(kind: str) -> Format:
    group = GGUF_PACKINGS[kind].block_cols
    ours = Product(partial(_gguf_weights, kind), partial(_int8_by_group, group), partial(_linear_gguf, kind))
    return Format(kind, "int8", ours)


FORMATS: tuple[Format, ...] = (
    _float("fp32", torch.float32, "fp32", {"ATen (MKL)": _plain(torch.float32)}),
    _float(
        "bf16",
        _BF16,
        "bf16",
        {
            "oneDNN": _plain(_BF16),
            "oneDNN packed": Product(_onednn_packed_weights, partial(_normal, _BF16), _onednn_packed_linear),
            "ATen": _plain(_BF16, onednn=False, max_tokens=1),
        },
    ),
    _float("fp16", torch.float16, "fp32", {"oneDNN": _plain(torch.float16)}),
    Format("fp8", "bf16", Product(_fp8_weights, _fp8, _linear_fp8), _FP8_PEERS),
    Format("fp8 block", "bf16", Product(_fp8_block_weights, _fp8_by_group, _linear_fp8)),
    Format("int8", "int8", Product(_int8_weights, _int8_by_token, _linear_int8), _INT8_PEERS),
    _int4(128, zeros=False),
    _int4(32, zeros=True),
    *(_gguf(kind) for kind in GGUF_PACKINGS),
)

# Output heads: the same weights, float32 results.
HEADS: tuple[Format, ...] = (
    Format(
        "bf16",
        "bf16",
        Product(partial(_float_weights, _BF16), partial(_normal, _BF16), _logits),
        {"oneDNN": _plain(_BF16)},
    ),
)
