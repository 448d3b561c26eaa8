"""Tensors of benchmarks: their sizes, and copies in the runtime's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ozone.native import allocate


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


def in_region(tensor: Tensor) -> Tensor:
    """A dense copy in a region of the native runtime: all contestants' memory has pages of one size."""
    memory = torch.from_numpy(allocate("bench", tensor_bytes(tensor)))
    return memory.view(tensor.dtype).view(tensor.shape).copy_(tensor)
