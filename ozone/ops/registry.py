"""Makes ops out of schemas and PyTorch references. What an op is called, and whether it is one node, is in
`schemas.py`; what it computes, in the file of its family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from ozone.ops.schemas import SCHEMAS, OpSchema

Function = TypeVar("Function", bound=Callable[..., Any])

_library = torch.library.Library("ozone", "DEF")  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Op:
    """A registered op: its schema, its plain PyTorch reference, and the one node that stands for it."""

    schema: OpSchema
    reference: Callable[..., Any]
    node: Callable[..., Any]


OPS: dict[str, Op] = {}


def op(name: str, fake: Callable[..., Any] | None = None) -> Callable[[Function], Function]:
    """Register the decorated PyTorch reference as the op `name`.

    Returns what layers call: the node, for an op that is always one node; the reference itself, for one
    that `custom_ops` governs. `fake` computes the results' shapes without data, for references that look
    at their arguments' values; others run on fake tensors as they are.

    `define` and `impl` are used instead of `torch.library.custom_op`: a call costs 1.5 us, not 5 to 36.
    """
    schema = SCHEMAS[name]

    def register(reference: Function) -> Function:
        _library.define(schema.name + schema.signature)  # type: ignore[no-untyped-call]
        key = "CPU" if fake is not None else "CompositeExplicitAutograd"
        _library.impl(schema.name, reference, key)  # type: ignore[no-untyped-call]
        if fake is not None:
            torch.library.register_fake(f"ozone::{schema.name}", fake, lib=_library)
        node = getattr(torch.ops.ozone, schema.name).default
        OPS[name] = Op(schema, reference, node)
        return reference if schema.governed else cast(Function, node)

    return register
