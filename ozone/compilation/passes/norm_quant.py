"""`fuse_norm_quant`: a norm and the quantization of its result, for the linear that takes it."""

from __future__ import annotations

from ozone.compilation.rules import Fusion, chain
from ozone.ops.schemas import QUANTIZATIONS

FUSION = Fusion(
    "fuse_norm_quant",
    tuple(
        chain(norm, quantization)
        for norm in ("fused_add_rms_norm", "rms_norm")
        for quantization in QUANTIZATIONS
    ),
)
