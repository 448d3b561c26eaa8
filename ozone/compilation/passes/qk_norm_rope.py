"""`enable_qk_norm_rope_fusion`: the norms of the heads of q and k, and their rotation."""

from __future__ import annotations

from typing import Any

from ozone.compilation.patterns import ops
from ozone.compilation.rules import Fusion, fused


def _normalize_and_rotate(
    q: Any, k: Any, q_weight: Any, k_weight: Any, eps: Any, positions: Any, cos_sin: Any, interleaved: Any
) -> Any:
    q, k = ops.rms_norm(q, q_weight, eps), ops.rms_norm(k, k_weight, eps)
    return ops.rotary_embedding(q, k, positions, cos_sin, interleaved)


FUSION = Fusion("enable_qk_norm_rope_fusion", (fused("qk_norm_rotary_embedding", _normalize_and_rotate),))
