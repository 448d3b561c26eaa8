"""Which function runs for an op: the op as one node, or its PyTorch reference, as `custom_ops` says."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ozone.ops
from ozone.config.custom_ops import custom_op_enabled
from ozone.ops.registry import OPS

# Ops are registered when the file of their family is imported.
for _module in pkgutil.iter_modules(ozone.ops.__path__, "ozone.ops."):
    importlib.import_module(_module.name)


@dataclass(frozen=True)
class OpChoice:
    """What layers ask for the ops that they call.

    Attributes:
        custom_ops: the resolved setting, see `ozone.config.custom_ops`.
        compiled: whether the model is compiled, which decides what `custom_ops` leaves open.
    """

    custom_ops: tuple[str, ...] = ("none",)
    compiled: bool = False

    def __call__(self, name: str) -> Callable[..., Any]:
        """The function for the op `name`: one node, which runs natively where the library is built, or the
        reference, where a custom op governs the op and is disabled. Raises: `KeyError` for an unknown op.
        """
        op = OPS[name]
        governor = op.schema.custom_op
        if governor is None or custom_op_enabled(self.custom_ops, governor, compiled=self.compiled):
            return op.call
        return op.reference
