"""The one face that every weight file shows: named raw tensors in Hugging Face's naming and layout."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RawTensor:
    """A tensor as it lies in its file, not yet converted.

    Attributes:
        name: canonical (Hugging Face) name, for example ``model.layers.0.self_attn.q_proj.weight``.
        dtype: safetensors' name of the element type (``F32``, ``F16``, ``BF16``, ``F8_E4M3``, ``I8``,
            ``I32``, ``U8``, ...) or GGUF's name of the block type (``Q4_1``, ``Q6_K``, ...).
        shape: logical shape in row-major order, in elements.
        data: one-dimensional uint8 array, a view into the mapped file wherever no row had to move.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


class WeightSource(Protocol):
    """Read access to the tensors of one model, whatever its file format."""

    @property
    def path(self) -> str:
        """Where the weights come from, for messages."""
        ...

    def names(self) -> Collection[str]:
        """Canonical names of all tensors."""
        ...

    def get(self, name: str) -> RawTensor:
        """The tensor of that canonical name; `ModelFileError` where there is none. Thread-safe."""
        ...

    def release(self) -> None:
        """Take what was read off this process's memory; a tensor still in use is read again. Thread-safe."""
        ...
