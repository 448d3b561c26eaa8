"""`fuse_add_rms_norm`: the sum of a block's result and the residual stream, and the norm before the next
block, in the same layer or the next one.
"""

from __future__ import annotations

from typing import Any

from ozone.compilation.patterns import ops
from ozone.compilation.rules import Fusion, fused


def _add_and_normalize(x: Any, residual: Any, weight: Any, eps: Any) -> Any:
    total = ops.add(x, residual)
    return ops.rms_norm(total, weight, eps), total


FUSION = Fusion("fuse_add_rms_norm", (fused("fused_add_rms_norm", _add_and_normalize),))
