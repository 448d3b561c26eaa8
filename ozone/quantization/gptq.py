"""Checkpoints of GPTQ (Frantar et al., 2022): 4-bit weights in groups, as AutoGPTQ and GPTQModel write them.

``qweight`` (columns / 8, rows) holds eight columns to a word, lowest bits first; ``scales`` (groups, rows);
``qzeros`` (groups, rows / 8) holds zero points, in the format ``gptq`` one less than they are; ``g_idx``
(columns,) gives the group of each column.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError, shown
from ozone.layers.checkpoint import Checkpoint, stored
from ozone.layers.linear import LinearMethod
from ozone.ops.choice import OpChoice
from ozone.ops.linear_int4 import SYMMETRIC_ZERO
from ozone.quantization.int4_linear import Int4Linear, Int4Part, nibbles
from ozone.quantization.merged import SchemeByName
from ozone.quantization.scales import group_scales
from ozone.weights.fields import Fields


class GPTQReader:
    """See the file's head. `version`: 1 where zero points are stored less one, otherwise 2."""

    def __init__(self, group_size: int | None, *, version: int, symmetric: bool) -> None:
        self.group_size = group_size
        self._version = version
        self._symmetric = symmetric

    def check(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> None:
        if rows % 8 or columns % 8:
            raise ModelFileError(
                f"{checkpoint.source.path}: {name} has {rows} rows and {columns} columns; "
                "GPTQ packs multiples of 8"
            )
        checkpoint.raw_of_type(f"{name}.qweight", ["I32"], (columns // 8, rows))
        checkpoint.raw_of_type(f"{name}.qzeros", ["I32"], (self._groups(columns), rows // 8))

    def groups_of_columns(self, checkpoint: Checkpoint, name: str, columns: int) -> Tensor | None:
        if not checkpoint.has(f"{name}.g_idx"):
            return None
        indices = checkpoint.raw_of_type(f"{name}.g_idx", ["I32", "I64"], (columns,))
        return stored(indices).to(torch.int64)

    def read(self, checkpoint: Checkpoint, name: str, rows: int, columns: int) -> Int4Part:
        words = stored(checkpoint.raw(f"{name}.qweight", (columns // 8, rows)))
        weight = nibbles(words.t()).flatten(1)
        scales = group_scales(checkpoint, f"{name}.scales", self._groups(columns), rows).t()
        return Int4Part(weight, scales, self._zeros(checkpoint, name, rows, self._groups(columns)))

    def _zeros(self, checkpoint: Checkpoint, name: str, rows: int, groups: int) -> Tensor | None:
        zeros = nibbles(stored(checkpoint.raw(f"{name}.qzeros", (groups, rows // 8)))).flatten(1).t()
        if self._symmetric:
            # Some tools write them as they are and call the format ``gptq`` all the same.
            first = int(zeros[0, 0])
            if first in (SYMMETRIC_ZERO - 1, SYMMETRIC_ZERO) and bool((zeros == first).all()):
                return None
        return zeros + 1 if self._version == 1 else zeros

    def _groups(self, columns: int) -> int:
        return 1 if self.group_size is None else -(-columns // self.group_size)


class GPTQ(SchemeByName):
    """4-bit weights in every linear of the layers, or in those that the config lists."""

    def __init__(self, config: ModelConfig, op: OpChoice) -> None:  # noqa: ARG002 (inputs stay as they are)
        super().__init__()
        fields = Fields(config.quantization or {}, "the model's quantization_config")
        bits = fields.size("bits", most=64)
        if bits != 4:
            raise fields.fail("bits", f"is {bits}; supported: 4")
        layout = fields.choice("checkpoint_format", ("gptq", "gptq_v2"), "gptq")
        for key in ("is_marlin_format", "lm_head"):
            if fields.flag(key, False):
                raise fields.fail(key, "is true, which is not supported")
        if fields.values.get("dynamic"):
            raise fields.fail("dynamic", "is set: settings of single modules are not supported")
        reader = GPTQReader(
            read_group_size(fields, "group_size"),
            version=1 if layout == "gptq" else 2,
            symmetric=fields.flag("sym", True),
        )
        self._quantized = Int4Linear(reader)
        self._only = _listed_modules(fields)

    def method(self, name: str) -> LinearMethod:
        listed = self._only is None or any(name.endswith("." + module) for module in self._only)
        return self._quantized if listed else self.unquantized


def read_group_size(fields: Fields, key: str) -> int | None:
    """Columns of a group, or None where a row is one (-1). `ModelFileError` for other sizes."""
    if fields.values.get(key) == -1:
        return None
    size = fields.size(key)
    if size % 8:
        raise fields.fail(key, f"is {size}; supported: multiples of 8, such as 32, 64 and 128, or -1")
    return size


def _listed_modules(fields: Fields) -> list[str] | None:
    """optimum's list of lists of module names that are quantized in each layer."""
    listed = fields.values.get("modules_in_block_to_quantize")
    if not listed:
        return None
    names = [name for names in listed for name in names] if _is_list_of_lists(listed) else listed
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.fail("modules_in_block_to_quantize", f"is {shown(listed)}, not lists of names")
    return names


def _is_list_of_lists(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, list) for item in value)
