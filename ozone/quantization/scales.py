"""Scales of weights and of static activations, as checkpoints store them."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.errors import ModelFileError
from ozone.layers.checkpoint import Checkpoint

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def row_scales(checkpoint: Checkpoint, name: str, rows: int, *, per_row: bool) -> Tensor:
    """(rows,) float32 of the tensor `name`, which holds one number for each row, or one for all."""
    shapes: list[tuple[int, ...]] = [(rows, 1), (rows,)] if per_row else [(1,), (), (1, 1)]
    return checkpoint.numbers(name, *shapes).reshape(-1).expand(rows).contiguous()


def group_scales(checkpoint: Checkpoint, name: str, rows: int, groups: int) -> Tensor:
    """(rows, groups) of the tensor `name`, in the type in which it is stored: there are many."""
    tensor = checkpoint.raw(name, (rows, groups))
    return checkpoint.numbers(name, (rows, groups)).to(_TYPES.get(tensor.dtype, torch.float32))


def input_scale(checkpoint: Checkpoint, name: str) -> float:
    """The one scale of a linear's input. `ModelFileError` unless it is positive."""
    scale = float(checkpoint.numbers(name, (1,), (), (1, 1)))
    if not scale > 0:
        raise ModelFileError(
            f"{checkpoint.source.path}: tensor {name} is {scale}; the scale of activations is positive"
        )
    return scale
