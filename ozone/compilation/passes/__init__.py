"""The passes: one file each, in the order in which they run."""

from __future__ import annotations

from ozone.compilation.passes import (
    act_padding,
    act_quant,
    add_rms_norm,
    attn_quant,
    norm_quant,
    qk_norm_rope,
    qk_norm_rope_kvcache,
    rope_kvcache,
)
from ozone.compilation.rules import Fusion

# What fuses more ops comes before what fuses some of them, and what others go on from before those.
FUSIONS: tuple[Fusion, ...] = (
    add_rms_norm.FUSION,
    act_padding.FUSION,
    norm_quant.FUSION,
    act_quant.FUSION,
    attn_quant.FUSION,
    qk_norm_rope_kvcache.FUSION,
    qk_norm_rope.FUSION,
    rope_kvcache.FUSION,
)
