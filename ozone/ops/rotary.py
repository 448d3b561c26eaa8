"""Rotary position embedding (Su et al., 2021) in the half-split order of Hugging Face checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.ops.registry import op


@op("rotary_embedding")
def rotary_embedding(q: Tensor, k: Tensor, positions: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the first columns of every head of q and k by their token's angles, in float32.

    Args:
        q: (tokens, heads, head_dim); k: (tokens, kv_heads, head_dim).
        positions: (tokens,) integers.
        cos_sin: (positions, rotary_dim) float32, cosines of rotary_dim / 2 angles, then their sines.

    Returns: rotated q and k; columns from rotary_dim on are unchanged.
    """
    rotary_dim = cos_sin.shape[1]
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    # One rotation of q and k together: at one token the number of calls is what costs.
    both = torch.cat((q[..., :rotary_dim], k[..., :rotary_dim]), dim=1)
    first, second = both.to(torch.float32).chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    rotated_q, rotated_k = (
        part.to(q.dtype, copy=True) for part in torch.split(rotated, [q.shape[1], k.shape[1]], dim=1)
    )
    if rotary_dim == q.shape[-1]:
        return rotated_q, rotated_k
    return (
        torch.cat((rotated_q, q[..., rotary_dim:]), dim=-1),
        torch.cat((rotated_k, k[..., rotary_dim:]), dim=-1),
    )
