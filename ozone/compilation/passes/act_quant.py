"""`fuse_act_quant`: a gated activation and the quantization of its result, for the linear that takes it."""

from __future__ import annotations

from ozone.compilation.rules import Fusion, chain
from ozone.ops.schemas import QUANTIZATIONS

FUSION = Fusion(
    "fuse_act_quant",
    tuple(
        chain(activation, quantization)
        for activation in ("silu_and_mul", "gelu_tanh_and_mul")
        for quantization in QUANTIZATIONS
    ),
)
