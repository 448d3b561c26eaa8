"""`fuse_attn_quant`: attention and the quantization of its result, for the linear that takes it."""

from __future__ import annotations

from ozone.compilation.rules import Fusion, chain
from ozone.ops.schemas import QUANTIZATIONS

FUSION = Fusion("fuse_attn_quant", tuple(chain("attention", quantization) for quantization in QUANTIZATIONS))
