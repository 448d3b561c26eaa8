"""The gated feed-forward block that every family here shares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.layers.linear import Linear
from ozone.layers.options import BuildOptions
from ozone.ops.registry import being_traced

# A config's name of the activation -> the op.
_ACTIVATIONS = {
    "silu": "silu_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
}
# Rows that the block works on at a time. Its inner rows are several times as wide as the model: those of many
# rows need more memory than all else, and a product of this many is as fast. docs/decisions/0008
_MAX_ROWS = 512


class GatedMLP(nn.Module):
    """``down(activation(gate(x)) * up(x))``, gate and up as one matrix."""

    def __init__(self, name: str, config: ModelConfig, options: BuildOptions) -> None:
        super().__init__()
        if config.hidden_act not in _ACTIVATIONS:
            raise ModelFileError(
                f"activation {config.hidden_act!r} is not one that Ozone has: {', '.join(_ACTIVATIONS)}"
            )
        self.activation = options.op(_ACTIVATIONS[config.hidden_act])
        self.gate_up_proj = Linear(
            (f"{name}.gate_proj", f"{name}.up_proj"),
            config.hidden_size,
            (config.intermediate_size, config.intermediate_size),
            bias=config.mlp_bias,
            dtype=options.dtype,
            method=options.linear_method(f"{name}.gate_proj"),
        )
        self.down_proj = Linear(
            (f"{name}.down_proj",),
            config.intermediate_size,
            (config.hidden_size,),
            bias=config.mlp_bias,
            dtype=options.dtype,
            method=options.linear_method(f"{name}.down_proj"),
        )

    def forward(self, x: Tensor) -> Tensor:
        # Traced, the block stays one: a compiled graph knows the sizes of all its tensors and plans for them.
        if being_traced() or x.shape[0] <= _MAX_ROWS:
            return self._rows(x)
        return torch.cat([self._rows(rows) for rows in torch.split(x, _MAX_ROWS)])

    def _rows(self, x: Tensor) -> Tensor:
        output: Tensor = self.down_proj(self.activation(self.gate_up_proj(x)))
        return output
