"""From a model to a graph of op overloads: Dynamo traces once, for any number of tokens and requests.

Sizes are unbacked, so that no number is special, no guard is made, and nothing can ask for a second trace.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ozone.compilation.repeated import only, plan_of, repeat
from ozone.compilation.step import SIZES, Step, StepInputs
from ozone.compilation.traced import Argument, Traced

logger = logging.getLogger("ozone")

# Sizes of the example that is traced. Any would do.
_EXAMPLE = {"tokens": 37, "requests": 11, "request_starts": 12}


def trace(step: Step, inputs: StepInputs) -> Traced:
    """The whole step as one graph. Of layers that repeat, a few are traced.

    Args:
        inputs: any tensors of the right types, of at least a dozen rows; only their shapes are looked at.

    Raises: torch's own errors where the model does what cannot be traced.
    """
    constants = {id(tensor): Argument("constant", name) for name, tensor in step.constants()}
    plan = plan_of(step)
    if plan is not None:
        with only(step.model, plan.layers):
            traced = _trace(step, inputs, constants)
        if repeat(traced, plan):
            return traced
        logger.debug("layers %s differ in more than their weights: all are traced", plan.copied)
    return _trace(step, inputs, constants)


def _trace(step: Step, inputs: StepInputs, constants: Mapping[int, Argument]) -> Traced:
    """`trace` of all layers that the model has now; `constants` by the identity of their tensors."""
    from torch._dynamo.convert_frame import fullgraph_capture
    from torch._dynamo.decorators import mark_unbacked
    from torch._dynamo.utils import get_metrics_context

    examples = StepInputs(*(_example(x, size) for x, size in zip(inputs, SIZES, strict=True)))
    for example, size in zip(examples, SIZES, strict=True):
        mark_unbacked(example, 0, shape_id=size)
    # What lies beneath torch.compile and export: the graph alone, without guards and a function around it.
    # Only what is marked varies, whatever else was traced in this process before.
    static = torch._dynamo.config.patch(automatic_dynamic_shapes=False, assume_static_by_default=True)
    with static, get_metrics_context():
        captured = fullgraph_capture(step.forward, tuple(examples)).backend_input
    assert captured is not None, "a step without tensors"
    module, arguments = captured.graph_module, captured.example_inputs
    names = {id(example): Argument("input", name) for name, example in examples._asdict().items()}
    names |= constants
    fakes = [node.meta["example_value"] for node in module.graph.find_nodes(op="placeholder")]
    sizes = {
        str(fake.shape[0]): size
        for argument, fake in zip(arguments, fakes, strict=True)
        for example, size in zip(examples, SIZES, strict=True)
        if argument is example
    }
    return Traced(
        _normalized(module, fakes),
        [
            Argument("size", sizes[str(fake)]) if isinstance(fake, torch.SymInt) else names[id(argument)]
            for argument, fake in zip(arguments, fakes, strict=True)
        ],
    )


def _example(x: Tensor, size: str) -> Tensor:
    return torch.empty(_EXAMPLE[size], *x.shape[1:], dtype=x.dtype)


def _normalized(module: fx.GraphModule, fakes: list[Any]) -> fx.GraphModule:
    """The same graph in op overloads: methods and functions of Python become the ops that they call, and what
    only asserts something about sizes is gone.
    """
    from torch._subclasses import FakeTensor
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = next(fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor))
    with torch.inference_mode(False), torch.no_grad(), mode:
        normalized = make_fx(module, tracing_mode="real", _allow_non_fake_inputs=True)(*fakes)
    for node in normalized.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        normalized.graph.erase_node(node)
    normalized.graph.eliminate_dead_code(is_impure_node=has_effect)
    normalized.recompile()
    return normalized


def has_effect(node: fx.Node) -> bool:
    """Whether the node may not be removed, even if nobody reads its result."""
    if node.op in ("placeholder", "output"):
        return True
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
