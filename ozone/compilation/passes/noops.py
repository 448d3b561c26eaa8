"""`eliminate_noops`: views of all that there is to see, in its own shape, and padding that adds nothing."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from ozone.compilation.pieces import op_name


def eliminate_noops(graph: fx.Graph) -> int:
    """Put what goes into an op that changes nothing where its result is; returns how many there were."""
    places = 0
    for node in graph.nodes:
        viewed = _viewed(node)
        if viewed is not None and _same(viewed.meta.get("val"), node.meta.get("val")):
            node.replace_all_uses_with(viewed)
            graph.erase_node(node)
            places += 1
    return places


def _viewed(node: fx.Node) -> fx.Node | None:
    """Whose numbers the node's result has, of what can be a no-op."""
    call = node.args[0] if node.target is operator.getitem else node
    if not isinstance(call, fx.Node) or not isinstance(call.target, torch._ops.OpOverload):
        return None
    viewed = call.args[0] if call.args and (call.target.is_view or op_name(call) == "pad") else None
    return viewed if isinstance(viewed, fx.Node) else None


def _same(x: Any, y: Any) -> bool:
    """Whether two tensors without data are the same one, looked at the same way."""
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.dtype is not y.dtype:
        return False
    if x.dim() != y.dim():
        return False
    sizes, others = ((t.storage_offset(), *t.shape, *t.stride()) for t in (x, y))
    pairs = list(zip(sizes, others, strict=True))
    # What differs mostly differs in plain numbers, and those are compared in no time.
    pairs.sort(key=lambda pair: not all(isinstance(size, int) for size in pair))
    return all(_equal(a, b) for a, b in pairs)


def _equal(a: int | torch.SymInt, b: int | torch.SymInt) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    # What has been traced has imported it; it takes a while.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(a == b)
