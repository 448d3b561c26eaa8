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
    heads = [q.shape[1], k.shape[1]]
    rotary_dim = cos_sin.shape[1]
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    # One rotation of q and k together: at one token the number of calls is what costs.
    both = torch.cat((q, k), dim=1)
    first, second = both[..., :rotary_dim].to(torch.float32).chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(q.dtype)
    if rotary_dim < q.shape[-1]:
        rotated = torch.cat((rotated, both[..., rotary_dim:]), dim=-1)
    rotated_q, rotated_k = torch.split(rotated, heads, dim=1)
    return rotated_q, rotated_k
