"""`fuse_act_padding`: a norm and the padding of its rows to whole groups, and what quantizes these."""

from __future__ import annotations

from ozone.compilation.rules import Fusion, chain

FUSION = Fusion(
    "fuse_act_padding",
    (
        chain("fused_add_rms_norm", "pad", "quantize_fp8_group"),
        chain("rms_norm", "pad", "quantize_fp8_group"),
        chain("fused_add_rms_norm", "pad"),
        chain("rms_norm", "pad"),
    ),
)
