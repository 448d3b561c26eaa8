"""Rotary position embedding (Su et al., 2021), alone and behind the norm of each head."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.native import kernel
from ozone.ops.norm import rms_norm
from ozone.ops.registry import DTYPES, NATIVE, op

if NATIVE:
    _rotary_embedding = kernel("rotary_embedding")
    _qk_norm_rotary_embedding = kernel("qk_norm_rotary_embedding")


def as_int32(x: Tensor) -> Tensor:
    """`x` as kernels read positions, lengths and block tables."""
    return x if x.dtype is torch.int32 else x.to(torch.int32)


def dense_heads(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(tokens, heads, head_dim) as kernels read it, heads dense, and its strides."""
    strides = x.stride()
    if strides[2] == 1:
        return x, strides
    x = x.contiguous()
    return x, x.stride()


def _fake(q: Tensor, k: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _native_rotary_embedding(
    q: Tensor, k: Tensor, positions: Tensor, cos_sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    (q, q_stride), (k, k_stride), positions = dense_heads(q), dense_heads(k), as_int32(positions)
    (tokens, heads, head_dim), kv_heads, dtype = q.shape, k.shape[1], q.dtype
    q_out = q.new_empty(tokens, heads, head_dim)
    k_out = q.new_empty(tokens, kv_heads, head_dim)
    _rotary_embedding(
        q_out.data_ptr(),
        k_out.data_ptr(),
        q.data_ptr(),
        k.data_ptr(),
        positions.data_ptr(),
        cos_sin.data_ptr(),
        tokens,
        heads,
        kv_heads,
        head_dim,
        cos_sin.shape[1],
        q_stride[0],
        q_stride[1],
        k_stride[0],
        k_stride[1],
        interleaved,
        DTYPES[dtype],
    )
    return q_out, k_out


@op("rotary_embedding", native=_native_rotary_embedding, fake=_fake)
def rotary_embedding(
    q: Tensor, k: Tensor, positions: Tensor, cos_sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Rotate the first columns of every head of q and k by their token's angles, in float32.

    Args:
        q: (tokens, heads, head_dim); k: (tokens, kv_heads, head_dim); both with dense heads, and may be views
            of one wider matrix.
        positions: (tokens,) integers.
        cos_sin: (positions, rotary_dim) float32, cosines of rotary_dim / 2 angles, then their sines.
        interleaved: which columns turn together: i and i + rotary_dim / 2, as in Hugging Face checkpoints,
            or 2i and 2i + 1, as in the paper.

    Returns: rotated q and k, dense; columns from rotary_dim on are unchanged.
    """
    rotary_dim = cos_sin.shape[1]
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    # One rotation of q and k together: at one token the number of calls is what costs.
    both = torch.cat((q[..., :rotary_dim], k[..., :rotary_dim]), dim=1).to(torch.float32)
    if interleaved:
        first, second = both[..., ::2], both[..., 1::2]
        rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        first, second = both.chunk(2, dim=-1)
        rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    rotated_q, rotated_k = (
        part.to(q.dtype, copy=True, memory_format=torch.contiguous_format)
        for part in torch.split(rotated, [q.shape[1], k.shape[1]], dim=1)
    )
    if rotary_dim == q.shape[-1]:
        return rotated_q, rotated_k
    return (
        torch.cat((rotated_q, q[..., rotary_dim:]), dim=-1),
        torch.cat((rotated_k, k[..., rotary_dim:]), dim=-1),
    )


def _native_qk_norm_rotary_embedding(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    positions: Tensor,
    cos_sin: Tensor,
    interleaved: bool,
) -> tuple[Tensor, Tensor]:
    (q, q_stride), (k, k_stride), positions = dense_heads(q), dense_heads(k), as_int32(positions)
    (tokens, heads, head_dim), kv_heads, dtype = q.shape, k.shape[1], q.dtype
    q_out = q.new_empty(tokens, heads, head_dim)
    k_out = q.new_empty(tokens, kv_heads, head_dim)
    _qk_norm_rotary_embedding(
        q_out.data_ptr(),
        k_out.data_ptr(),
        q.data_ptr(),
        k.data_ptr(),
        q_weight.data_ptr(),
        k_weight.data_ptr(),
        positions.data_ptr(),
        cos_sin.data_ptr(),
        tokens,
        heads,
        kv_heads,
        head_dim,
        cos_sin.shape[1],
        q_stride[0],
        q_stride[1],
        k_stride[0],
        k_stride[1],
        interleaved,
        eps,
        DTYPES[dtype],
    )
    return q_out, k_out


@op("qk_norm_rotary_embedding", native=_native_qk_norm_rotary_embedding, fake=_fake)
def qk_norm_rotary_embedding(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    positions: Tensor,
    cos_sin: Tensor,
    interleaved: bool,
) -> tuple[Tensor, Tensor]:
    """`rms_norm` of every head, of q with `q_weight` and of k with `k_weight`, then `rotary_embedding`."""
    return rotary_embedding(
        rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps), positions, cos_sin, interleaved
    )
