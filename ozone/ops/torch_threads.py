"""The size of the team with which torch runs one op."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(size: int) -> Iterator[None]:
    """Ops that this thread calls use `size` threads; OpenMP keeps the number for each caller."""
    before = torch.get_num_threads()
    torch.set_num_threads(size)
    try:
        yield
    finally:
        torch.set_num_threads(before)
