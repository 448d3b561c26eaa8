"""Makes ops out of schemas, PyTorch references and native functions. What an op is called, and whether it is
one node, is in `schemas.py`; what it computes, in the file of its family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from ozone.native import library
from ozone.native.dtypes import DTYPE_CODES
from ozone.ops.schemas import SCHEMAS, OpSchema

Function = TypeVar("Function", bound=Callable[..., Any])

_library = torch.library.Library("ozone", "DEF")  # type: ignore[no-untyped-call]

# Whether ops run natively here. Decided once: an op's implementation is registered when it is imported.
NATIVE = library() is not None

# A torch type as kernels' `dtype` fields have it.
DTYPES: dict[torch.dtype, int] = {getattr(torch, name): code for name, code in DTYPE_CODES.items()}


@dataclass(frozen=True)
class Op:
    """A registered op.

    Attributes:
        reference: the plain PyTorch function.
        fake: makes results of the right shapes, strides and types, without data.
        function: what the node runs: the native function where there is one, else the reference.
        node: the op as torch knows it, one node of a graph.
        call: what layers call for the op as one node: the node where a graph is traced, elsewhere what the
            node would run.
    """

    schema: OpSchema
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    function: Callable[..., Any]
    node: Callable[..., Any]
    call: Callable[..., Any]


OPS: dict[str, Op] = {}


def op(
    name: str, *, fake: Callable[..., Any], native: Callable[..., Any] | None = None
) -> Callable[[Function], Function]:
    """Register the decorated PyTorch reference as the op `name`.

    Args:
        native: the same function over the native library; it runs instead of the reference wherever that
            library is built.
        fake: the same function for tensors without data. Cheap, since a trace of a model calls it for every
            layer: it makes empty tensors and computes nothing.

    Returns what layers call: the node, for an op that is always one node; the reference itself, for one
    that a custom op governs, which layers get through `ozone.ops.choice` instead. So a reference that is
    composed of other governed ops calls their references.

    `define` and `impl` are used instead of `torch.library.custom_op`: a call costs 2 us, not 5 to 36. Outside
    of tracing, where nobody has to see the node, calls go past the dispatcher and cost only the function.
    """
    schema = SCHEMAS[name]

    def register(reference: Function) -> Function:
        _library.define(schema.name + schema.signature)  # type: ignore[no-untyped-call]
        function = native if native is not None and NATIVE else reference
        _library.impl(schema.name, function, "CPU")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"ozone::{schema.name}", fake, lib=_library)
        node = getattr(torch.ops.ozone, schema.name).default
        OPS[name] = Op(schema, reference, fake, function, node, _unless_traced(function, node))
        return cast(Function, OPS[name].call) if schema.custom_op is None else reference

    return register


# Every call asks: what is looked up here is not looked up then.
_is_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack


def being_traced() -> bool:
    """Whether somebody looks at what is called, rather than at what it computes."""
    # Dynamo says that it compiles; other tracers and fake tensors are modes on the dispatcher's stack.
    return _is_compiling() or _modes() > 0


def _unless_traced(function: Callable[..., Any], node: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        if _is_compiling() or _modes() > 0:  # `being_traced`, without another call
            return node(*arguments)
        return function(*arguments)

    return call
