"""Checkpoints of AWQ (Lin et al., 2023): 4-bit weights in groups, as AutoAWQ writes them (version ``gemm``).

``qweight`` (columns, rows / 8) holds eight rows to a word, whose nibbles from the lowest on are rows 0, 2, 4,
6, 1, 3, 5, 7; ``qzeros`` (groups, rows / 8) holds zero points in the same order; ``scales`` (groups, rows).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.layers.checkpoint import Checkpoint, stored
from ozone.layers.linear import LinearMethod
from ozone.ops.choice import OpChoice
from ozone.quantization.gptq import read_group_size
from ozone.quantization.int4_linear import Int4Linear, Int4Part, nibbles
from ozone.quantization.merged import SchemeByName
from ozone.quantization.scales import group_scales
from ozone.quantization.skipped import is_skipped, skipped_modules
from ozone.weights.fields import Fields

# The nibble of a word that holds each of its eight rows.
_NIBBLE_OF_ROW = (0, 4, 1, 5, 2, 6, 3, 7)


class AWQReader:
    """See the file's head."""

    def __init__(self, group_size: int | None, *, zero_point: bool) -> None:
        self.group_size = group_size
        self._zero_point = zero_point

    def check(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> None:
        if rows % 8:
            raise ModelFileError(
                f"{checkpoint.source.path}: {name} has {rows} rows; AWQ packs multiples of 8"
            )
        checkpoint.raw_of_type(f"{name}.qweight", ["I32"], (columns, rows // 8))
        if self._zero_point:
            checkpoint.raw_of_type(f"{name}.qzeros", ["I32"], (self._groups(columns), rows // 8))

    def groups_of_columns(self, checkpoint: Checkpoint, name: str, columns: int) -> Tensor | None:  # noqa: ARG002
        return None

    def read(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Int4Part:
        groups = self._groups(columns)
        words = stored(checkpoint.raw(f"{name}.qweight", (columns, rows // 8)))
        scales = group_scales(checkpoint, f"{name}.scales", groups, rows).t()
        zeros = None
        if self._zero_point:
            zeros = _rows(stored(checkpoint.raw(f"{name}.qzeros", (groups, rows // 8))))
        return Int4Part(_rows(words), scales, zeros)

    def _groups(self, columns: int) -> int:
        return 1 if self.group_size is None else -(-columns // self.group_size)


def _rows(words: Tensor) -> Tensor:
    """(columns, rows / 8) words -> (rows, columns) uint8."""
    return nibbles(words)[:, :, torch.tensor(_NIBBLE_OF_ROW)].flatten(1).t().contiguous()


class AWQ(SchemeByName):
    """4-bit weights in every linear of the layers but those that the config leaves out."""

    def __init__(self, config: ModelConfig, op: OpChoice) -> None:  # noqa: ARG002 (inputs stay as they are)
        super().__init__()
        fields = Fields(config.quantization or {}, "the model's quantization_config")
        bits_key = "bits" if fields.has("bits") else "w_bit"
        bits = fields.size(bits_key, most=64)
        if bits != 4:
            raise fields.fail(bits_key, f"is {bits}; supported: 4")
        fields.choice("version", ("gemm", "GEMM"), "gemm")
        fields.choice("backend", ("autoawq",), "autoawq")
        group_size = read_group_size(fields, "group_size" if fields.has("group_size") else "q_group_size")
        self._quantized = Int4Linear(AWQReader(group_size, zero_point=fields.flag("zero_point", True)))
        self._skipped = skipped_modules(fields, "modules_to_not_convert")

    def method(self, name: str) -> LinearMethod:
        return self.unquantized if is_skipped(name, self._skipped) else self._quantized
