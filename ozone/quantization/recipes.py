"""The schemes of `ozone quantize`: how each one stores a linear, in the layout of compressed-tensors.

Scales are kept in the model's type, as other tools keep them, and weights are rounded to what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ozone.errors import ConfigError
from ozone.quantization.error_feedback import round_with_feedback
from ozone.quantization.observers import InputProducts, InputValues, Observer, ValuesAndProducts

E4M3_MAX = 448.0
INT8_MAX = 127.0
_BLOCK = 128
# Of 4-bit groups: what the largest magnitude is divided by for the scale, and the shares of the range that is
# kept with zero points. Large weights are clipped where that makes the sum of squared errors smaller.
_DIVISORS = (6.5, 7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 8.75, 9.0, 9.5, 10.0, 10.5, 11.0)
_SHARES = (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.8, 0.76, 0.72)

TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
Kind = Literal["fp8", "int8", "int4", "plain"]
_LAYOUTS: Mapping[Kind, str] = {"fp8": "float-quantized", "int8": "int-quantized", "int4": "pack-quantized"}


@dataclass(frozen=True)
class Recipe:
    """One scheme.

    Attributes:
        name: as `--scheme` has it.
        kind: the type of weights; ``plain`` is bfloat16, and nothing is quantized.
        strategy: which of them share a scale: ``tensor``, ``channel``, ``group`` or ``block``.
        inputs: which inputs share one: ``static`` (all, found by calibration), ``token`` or ``group``; None
            where inputs stay as they are.
        group_size: columns of a group of 4-bit weights.
        symmetric: 4-bit weights without zero points.
    """

    name: str
    kind: Kind
    strategy: str
    inputs: Literal["static", "token", "group"] | None = None
    group_size: int | None = None
    symmetric: bool = True

    @property
    def observer(self) -> type[Observer] | None:
        """What has to be known of a linear's inputs, from a text."""
        if self.kind == "int4" or self.strategy == "block":
            return InputProducts
        if self.inputs == "static":
            return ValuesAndProducts if self.kind == "fp8" else InputValues
        return None

    @property
    def sequential(self) -> bool:
        """Each layer is fitted to what the quantized layers before it compute."""
        return self.kind == "int4"

    def check(self, name: str, columns: int) -> None:
        """`ConfigError` where a matrix does not fit the scheme."""
        if self.group_size is not None and columns % self.group_size:
            fitting = [size for size in (32, 64, 128) if columns % size == 0]
            other = f"int4-g{fitting[-1]}" if fitting else "int4-channel"
            raise ConfigError(
                f"--scheme {self.name}: {name} has {columns} columns, which is no multiple of "
                f"{self.group_size}: use {other}, or leave it out with --ignore {name}"
            )

    def stored(self, rows: int, columns: int, scale_type: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of what a matrix becomes, by name after the linear's, as `encode` orders them."""
        if self.kind == "int4":
            groups = 1 if self.group_size is None else columns // self.group_size
            tensors: dict[str, tuple[str, tuple[int, ...]]] = {
                "weight_packed": ("I32", (rows, -(-columns // 8))),
                "weight_scale": (scale_type, (rows, groups)),
                "weight_shape": ("I64", (2,)),
            }
            if not self.symmetric:
                tensors["weight_zero_point"] = ("I32", (-(-rows // 8), groups))
            return tensors
        scales = {
            "tensor": (1,),
            "channel": (rows, 1),
            "block": (-(-rows // _BLOCK), -(-columns // _BLOCK)),
        }[self.strategy]
        tensors = {
            "weight": ("F8_E4M3" if self.kind == "fp8" else "I8", (rows, columns)),
            "weight_scale": (scale_type, scales),
        }
        if self.inputs == "static":
            tensors["input_scale"] = (scale_type, (1,))
        return tensors

    def encode(
        self, weight: Tensor, scale_type: str, observer: Observer | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """A float32 matrix as it is stored, and what that means. `observer`: as `self.observer` asks."""
        dtype = TORCH_TYPES[scale_type]
        if self.kind == "int4":
            assert isinstance(observer, InputProducts)
            return self._encode_int4(weight, dtype, observer)
        scale, spread = self._scales(weight, dtype)
        if self.kind == "int8":
            numbers = (weight / spread).round_().clamp_(-128, 127).to(torch.int8)
        elif isinstance(observer, InputProducts):
            scales, zeros = spread.expand_as(weight), torch.zeros(1, 1).expand_as(weight)
            rounded = round_with_feedback(weight, observer.feedback, scales, zeros, _nearest_e4m3)
            numbers = rounded.to(torch.float8_e4m3fn)
        else:
            numbers = (weight / spread).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
        tensors = {"weight": numbers, "weight_scale": scale}
        if isinstance(observer, ValuesAndProducts | InputValues):
            tensors["input_scale"] = _rounded_up(torch.tensor([observer.scale()]), dtype)
        return tensors, numbers.to(torch.float32) * spread

    def _scales(self, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Scales as they are kept, and in float32 so that they can divide the weights."""
        rows, columns = weight.shape
        most = E4M3_MAX if self.kind == "fp8" else INT8_MAX
        if self.strategy == "tensor":
            scale = _rounded_up(weight.abs().amax().view(1) / most, dtype)
            return scale, scale.to(torch.float32)
        if self.strategy == "channel":
            scale = _rounded_up(weight.abs().amax(1, keepdim=True) / most, dtype)
            return scale, scale.to(torch.float32)
        padded = functional.pad(weight, (0, -columns % _BLOCK, 0, -rows % _BLOCK))
        blocks = padded.view(padded.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK)
        scale = _rounded_up(blocks.abs().amax((1, 3)) / most, dtype)
        spread = scale.to(torch.float32).repeat_interleave(_BLOCK, 0)[:rows]
        return scale, spread.repeat_interleave(_BLOCK, 1)[:, :columns]

    def _encode_int4(
        self, weight: Tensor, dtype: torch.dtype, observer: InputProducts
    ) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = weight.shape
        group_size = self.group_size or columns
        find_grid = _symmetric_grid if self.symmetric else _grid_with_zeros
        squares = observer.products.diagonal().view(-1, group_size)
        grid = find_grid(weight.view(rows, -1, group_size), squares, dtype)
        scales, zeros = grid.spread(group_size)
        integers = round_with_feedback(weight, observer.feedback, scales, zeros, _nearest_integers)
        tensors = {
            "weight_packed": pack_nibbles(integers),
            "weight_scale": grid.scales,
            "weight_shape": torch.tensor([rows, columns]),
        }
        if not self.symmetric:
            tensors["weight_zero_point"] = pack_nibbles(grid.zeros.t()).t().contiguous()
        return tensors, (integers - zeros) * scales

    def config(self, ignore: list[str]) -> dict[str, Any]:
        """The ``quantization_config`` of a checkpoint of this scheme."""
        weights = _arguments(self.kind, self.strategy, dynamic=False, symmetric=self.symmetric)
        if self.strategy == "block":
            weights["block_structure"] = [_BLOCK, _BLOCK]
        if self.group_size is not None:
            weights["group_size"] = self.group_size
        inputs: dict[str, Any] | None = None
        if self.inputs is not None:
            strategy = "tensor" if self.inputs == "static" else self.inputs
            inputs = _arguments(self.kind, strategy, dynamic=self.inputs != "static", symmetric=True)
            if self.inputs == "group":
                inputs["group_size"] = _BLOCK
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": inputs,
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": {"fp8": "float-quantized", "int8": "int-quantized", "int4": "pack-quantized"}[
                self.kind
            ],
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ignore,
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp8-static", "fp8", "tensor", "static"),
        Recipe("fp8-dynamic", "fp8", "channel", "token"),
        Recipe("fp8-block", "fp8", "block", "group"),
        Recipe("int8", "int8", "channel", "token"),
        Recipe("int8-static", "int8", "channel", "static"),
        Recipe("int4-g32", "int4", "group", group_size=32),
        Recipe("int4-g64", "int4", "group", group_size=64),
        Recipe("int4-g128", "int4", "group", group_size=128),
        Recipe("int4-channel", "int4", "channel"),
        Recipe("bf16", "plain", "none"),
    )
}


def _arguments(kind: Kind, strategy: str, *, dynamic: bool, symmetric: bool) -> dict[str, Any]:
    return {
        "num_bits": 4 if kind == "int4" else 8,
        "type": "float" if kind == "fp8" else "int",
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": None,
        "dynamic": dynamic,
    }


def pack_nibbles(integers: Tensor) -> Tensor:
    """(rows, columns) 0 to 15 -> (rows, ceil(columns / 8)) int32, the first column in the lowest bits."""
    padded = functional.pad(integers.to(torch.uint8), (0, -integers.shape[1] % 8))
    low, high = padded[:, 0::2], padded[:, 1::2]
    # Flat in between: a single row may have any stride and yet count as contiguous.
    return (low | high << 4).reshape(-1).view(torch.int32).view(len(integers), -1)


class Grid(NamedTuple):
    """Where the weights of a group may lie: ``(integer - zero) * scale``, integers 0 to 15.

    Attributes:
        scales: (rows, groups), in the type in which they are kept.
        zeros: (rows, groups) float32.
    """

    scales: Tensor
    zeros: Tensor

    def spread(self, group_size: int) -> tuple[Tensor, Tensor]:
        """Scales and zeros of each weight, (rows, columns) float32."""
        scales = self.scales.to(torch.float32).repeat_interleave(group_size, 1)
        return scales, self.zeros.repeat_interleave(group_size, 1)


def _nearest_e4m3(weights: Tensor, _zeros: Tensor) -> Tensor:
    return weights.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(torch.float32)


def _nearest_integers(weights: Tensor, zeros: Tensor) -> Tensor:
    return (weights.round() + zeros).clamp_(0, 15)


def _symmetric_grid(weights: Tensor, squares: Tensor, dtype: torch.dtype) -> Grid:
    """8 stands for zero. Of several scales, for each group the one with the least sum of squared errors."""
    largest = weights.abs().amax(-1)
    zeros = torch.full_like(largest, 8.0)
    return _best(weights, squares, (Grid(_kept(largest / d, dtype), zeros) for d in _DIVISORS))


def _grid_with_zeros(weights: Tensor, squares: Tensor, dtype: torch.dtype) -> Grid:
    """Scales and zero points for shares of each group's range."""
    low, high = weights.amin(-1).clamp_(max=0), weights.amax(-1).clamp_(min=0)
    grids = []
    for share in _SHARES:
        scales = _kept((high - low) * (share / 15), dtype)
        grids.append(Grid(scales, (-low * share / scales.to(torch.float32)).round_().clamp_(0, 15)))
    return _best(weights, squares, grids)


def _best(weights: Tensor, squares: Tensor, grids: Iterable[Grid]) -> Grid:
    chosen: Grid | None = None
    least = torch.full(weights.shape[:2], torch.inf)
    for grid in grids:
        scales, zeros = grid.scales.to(torch.float32).unsqueeze(-1), grid.zeros.unsqueeze(-1)
        integers = ((weights / scales).round_() + zeros).clamp_(0, 15)
        errors = (integers.sub_(zeros) * scales).sub_(weights).square_().mul_(squares).sum(-1)
        better = errors < least
        if chosen is None:
            chosen = grid
        else:
            chosen = Grid(
                torch.where(better, grid.scales, chosen.scales), torch.where(better, grid.zeros, chosen.zeros)
            )
        least = torch.where(better, errors, least)
    assert chosen is not None
    return chosen


def _kept(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales in the type in which they are kept, where rows and groups of nothing but zeros have 1."""
    kept = scale.to(dtype)
    # float16 has no numbers below 6e-8.
    kept = torch.where(kept > 0, kept, torch.full_like(kept, torch.finfo(dtype).tiny))
    return torch.where(scale > 0, kept, torch.ones_like(kept))


def _rounded_up(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The next number of that type that is not less: what fits a scale fits the one that is kept."""
    kept = _kept(scale, dtype)
    above = torch.nextafter(kept, torch.full_like(kept, torch.inf))
    return torch.where(kept.to(torch.float32) < scale, above, kept)
