"""Which ops run as nodes is what the resolved `custom_ops` says, in every layer of every family."""

from __future__ import annotations

import pytest
import torch
from test_loading import CONFIG

from ozone.layers.activation import GatedMLP
from ozone.layers.norm import RMSNorm
from ozone.layers.rotary import RotaryEmbedding
from ozone.models import build_model
from ozone.ops.choice import OpChoice
from ozone.ops.registry import OPS


@pytest.mark.parametrize(
    ("custom_ops", "compiled", "nodes"),
    [
        (("none",), False, set()),
        (("none",), True, set()),
        (("all",), False, {"rms_norm", "add", "silu_and_mul", "rotary_embedding"}),
        (("+pad",), True, {"rms_norm", "add", "silu_and_mul", "rotary_embedding"}),
        (("+pad",), False, set()),
        (("all", "-rms_norm"), False, {"silu_and_mul", "rotary_embedding"}),
        (("none", "+rotary_embedding"), True, {"rotary_embedding"}),
    ],
)
def test_layers_call_nodes_for_enabled_ops_and_references_for_others(
    custom_ops: tuple[str, ...], compiled: bool, nodes: set[str]
) -> None:
    op = OpChoice(custom_ops, compiled=compiled)
    model = build_model(CONFIG, dtype=torch.float32, max_model_len=64, op=op)
    called = {}
    for module in model.modules():
        if isinstance(module, RMSNorm):
            called["rms_norm"] = module.rms_norm
            called["add"] = module.add
        elif isinstance(module, GatedMLP):
            called["silu_and_mul"] = module.activation
        elif isinstance(module, RotaryEmbedding):
            called["rotary_embedding"] = module.rotary_embedding
    assert len(called) == 4
    for name, function in called.items():
        assert function is (OPS[name].call if name in nodes else OPS[name].reference), name


def test_ops_that_no_custom_op_governs_are_always_nodes() -> None:
    assert OpChoice(("none",))("attention") is OPS["attention"].call
