"""`fuse_rope_kvcache`: the rotation of q and k, and the write of k and v to the KV cache."""

from __future__ import annotations

from typing import Any

from ozone.compilation.patterns import ops
from ozone.compilation.rules import Function, Fusion, fused
from ozone.ops.schemas import SCHEMAS


def _then_write(rotation: str) -> Function:
    """An op that rotates q and k, and the write of the new k and of v."""
    count = len(SCHEMAS[rotation].arguments) - 2

    def pattern(q: Any, k: Any, v: Any, *arguments: Any) -> Any:
        q, k = getattr(ops, rotation)(q, k, *arguments[:count])
        return q, ops.kv_write(k, v, *arguments[count:])

    return pattern


FUSION = Fusion(
    "fuse_rope_kvcache",
    (
        fused("rotary_embedding_kv_write", _then_write("rotary_embedding")),
        # Where `enable_qk_norm_rope_fusion` has merged the norms with the rotation.
        fused("qk_norm_rotary_embedding_kv_write", _then_write("qk_norm_rotary_embedding")),
    ),
    max_tokens=lambda passes: passes.rope_kvcache_fusion_max_token_num,
)
