"""How compressed-tensors stores integers: packed into 32-bit words, with scales and zero points by group."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.errors import ModelFileError
from ozone.layers.checkpoint import Checkpoint, stored
from ozone.quantization.int4_linear import Int4Part, nibbles
from ozone.quantization.scales import group_scales, row_scales

_SCALE_TYPES = ("F32", "F16", "BF16")


class PackedInt4:
    """4-bit weights in ``weight_packed``: eight columns to a word, lowest bits first, 8 more than they are.

    Args:
        group_size: columns that share a scale, or None where a row does.
        per_row: rows have scales of their own; otherwise the matrix has one.
        symmetric: there are no zero points.
        ordered: ``weight_g_idx`` may give columns other groups than their neighbours'.
    """

    def __init__(self, group_size: int | None, *, per_row: bool, symmetric: bool, ordered: bool) -> None:
        self.group_size = group_size
        self._per_row = per_row
        self._symmetric = symmetric
        self._ordered = ordered

    def check(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> None:
        checkpoint.raw_of_type(f"{name}.weight_packed", ["I32"], (rows, -(-columns // 8)))
        shape = stored(checkpoint.raw_of_type(f"{name}.weight_shape", ["I64", "I32"], (2,))).tolist()
        if shape != [rows, columns]:
            raise ModelFileError(
                f"{checkpoint.source.path}: tensor {name}.weight_shape says {shape}, "
                f"but this model's config asks for [{rows}, {columns}]"
            )
        if not self._symmetric:
            groups = self._groups(columns)
            packed = checkpoint.raw(f"{name}.weight_zero_point", (-(-rows // 8), groups), (rows, groups))
            kind = "I32" if packed.shape == (-(-rows // 8), groups) else "I8"
            checkpoint.raw_of_type(f"{name}.weight_zero_point", [kind], packed.shape)

    def groups_of_columns(self, checkpoint: Checkpoint, name: str, columns: int) -> Tensor | None:
        if not self._ordered:
            return None
        indices = stored(checkpoint.raw_of_type(f"{name}.weight_g_idx", ["I32", "I64"], (columns,)))
        # Tools fill it with -1 where they did not reorder.
        return None if bool((indices == -1).all()) else indices.to(torch.int64)

    def read(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Int4Part:
        words = stored(checkpoint.raw(f"{name}.weight_packed", (rows, -(-columns // 8))))
        scales = self._scales(checkpoint, f"{name}.weight_scale", rows, columns)
        zeros = None if self._symmetric else self._zeros(checkpoint, name, rows, self._groups(columns))
        return Int4Part(nibbles(words).flatten(1)[:, :columns], scales, zeros)

    def _groups(self, columns: int) -> int:
        return 1 if self.group_size is None else -(-columns // self.group_size)

    def _scales(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Tensor:
        if self._per_row:
            return group_scales(checkpoint, name, rows, self._groups(columns))
        return row_scales(checkpoint, name, rows, per_row=False).unsqueeze(1)

    def _zeros(self, checkpoint: Checkpoint, name: str, rows: int, groups: int) -> Tensor:
        packed_shape = (-(-rows // 8), groups)
        tensor = stored(checkpoint.raw(f"{name}.weight_zero_point", packed_shape, (rows, groups)))
        if tensor.dtype is torch.int8:
            return tensor + 8
        return nibbles(tensor.t()).flatten(1)[:, :rows].t()


class EightBits:
    """Weights of 8 bits, e4m3 or integers, to be decoded.

    Args:
        kind: ``fp8`` or ``int8``.
        strategy: what shares a scale: ``tensor``, ``channel``, ``group`` or ``block``.
        group_size: columns of a group.
        packed: integers lie in ``weight_packed``, four columns to a word, 128 more than they are.
    """

    def __init__(self, kind: str, strategy: str, group_size: int | None, *, packed: bool) -> None:
        self._type = "F8_E4M3" if kind == "fp8" else "I8"
        self._strategy = strategy
        self._group_size = group_size
        self._packed = packed

    def check(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> None:
        if self._packed:
            checkpoint.raw_of_type(f"{name}.weight_packed", ["I32"], (rows, -(-columns // 4)))
        else:
            checkpoint.raw_of_type(f"{name}.weight", [self._type], (rows, columns))

    def read(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Tensor:
        if self._packed:
            words = stored(checkpoint.raw(f"{name}.weight_packed", (rows, -(-columns // 4))))
            numbers = words.view(torch.uint8)[:, :columns].to(torch.float32) - 128
        else:
            numbers = stored(checkpoint.raw(f"{name}.weight", (rows, columns))).to(torch.float32)
        return numbers * self._scales(checkpoint, f"{name}.weight_scale", rows, columns)

    def _scales(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Tensor:
        """Broadcastable to (rows, columns)."""
        if self._strategy == "block":
            blocks = checkpoint.numbers(name, (-(-rows // 128), -(-columns // 128)))
            return blocks.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        if self._strategy == "group":
            size = self._group_size or columns
            groups = group_scales(checkpoint, name, rows, -(-columns // size)).to(torch.float32)
            return groups.repeat_interleave(size, 1)[:, :columns]
        return row_scales(checkpoint, name, rows, per_row=self._strategy == "channel").unsqueeze(1)
