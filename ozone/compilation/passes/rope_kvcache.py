"""`fuse_rope_kvcache`: the rotation of q and k, and the write of k and v to the KV cache."""

from __future__ import annotations

from typing import Any

from ozone.compilation.patterns import ops
from ozone.compilation.rules import Fusion, fused


def _rotate_and_write(
    q: Any, k: Any, v: Any, positions: Any, cos_sin: Any, interleaved: Any, *cache: Any
) -> Any:
    q, k = ops.rotary_embedding(q, k, positions, cos_sin, interleaved)
    return q, ops.kv_write(k, v, *cache)


def _normalize_rotate_and_write(
    q: Any,
    k: Any,
    v: Any,
    q_weight: Any,
    k_weight: Any,
    eps: Any,
    positions: Any,
    cos_sin: Any,
    interleaved: Any,
    *cache: Any,
) -> Any:
    """Where `enable_qk_norm_rope_fusion` has merged the norms with the rotation."""
    q, k = ops.qk_norm_rotary_embedding(q, k, q_weight, k_weight, eps, positions, cos_sin, interleaved)
    return q, ops.kv_write(k, v, *cache)


FUSION = Fusion(
    "fuse_rope_kvcache",
    (
        fused("rotary_embedding_kv_write", _rotate_and_write),
        fused("qk_norm_rotary_embedding_kv_write", _normalize_rotate_and_write),
    ),
    max_tokens=lambda passes: passes.rope_kvcache_fusion_max_token_num,
)
