"""The feed-forward block in pieces of rows computes what it computes in one."""

from __future__ import annotations

import pytest
import torch
from test_loading import CONFIG
from torch.overrides import TorchFunctionMode

from ozone.layers import activation
from ozone.layers.activation import GatedMLP
from ozone.models import build_model
from ozone.ops.choice import OpChoice


class _LargestResult(TorchFunctionMode):
    """Remembers the most elements that one operation made. A dispatcher's mode would look like a tracer."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("rows", [0, 1, 8, 9, 29])
def test_pieces_compute_what_the_whole_does(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG, dtype=torch.float32, max_model_len=64, op=OpChoice(("none",)))
    block = next(module for module in model.modules() if isinstance(module, GatedMLP))
    block.to_empty(device="cpu")
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(rows, CONFIG.hidden_size)
    with torch.inference_mode():
        whole = block(x)
        monkeypatch.setattr(activation, "_MAX_ROWS", 8)
        with _LargestResult() as largest:
            pieces = block(x)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)
    assert largest.elements <= max(8 * 2 * CONFIG.intermediate_size, whole.numel())
