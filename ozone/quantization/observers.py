"""What is kept of a linear's inputs while a text is read, for static scales and for 4-bit roundings."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

_INT8_MAX = 127.0
_E4M3_MAX = 448.0
# Of an int8 range: the shares of the largest magnitude that are tried as its end.
_STEPS = 60
_LEAST_SHARE = 0.02


class Observer(ABC):
    """Sees the inputs of one linear, a few tokens at a time."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    @abstractmethod
    def see(self, x: Tensor) -> None:
        """(tokens, columns), of any floating type."""


class LargestInput(Observer):
    """The scale that lets the largest magnitude fit into e4m3."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self._largest = 0.0

    def see(self, x: Tensor) -> None:
        self._largest = max(self._largest, float(x.abs().max()))

    def scale(self) -> float:
        """1 for an input that was always zero."""
        return self._largest / _E4M3_MAX or 1.0


class InputValues(Observer):
    """The scale that rounds to int8 with the least sum of squared errors, clipping what is large and rare."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self._seen: list[Tensor] = []

    def see(self, x: Tensor) -> None:
        self._seen.append(x.to(torch.float16 if x.dtype is torch.float16 else torch.bfloat16, copy=True))

    def scale(self) -> float:
        """1 for an input that was always zero."""
        largest = max(float(x.abs().max()) for x in self._seen)
        shares = torch.logspace(0.0, float(torch.tensor(_LEAST_SHARE).log10()), _STEPS).tolist()
        return min((largest * share / _INT8_MAX for share in shares), key=self._error) if largest else 1.0

    def _error(self, scale: float) -> float:
        total = 0.0
        for x in self._seen:
            wide = x.to(torch.float32)
            rounded = (wide / scale).round_().clamp_(-_INT8_MAX - 1, _INT8_MAX).mul_(scale)
            total += float(rounded.sub_(wide).square_().sum(dtype=torch.float64))
        return total


class InputProducts(Observer):
    """The sum of products of every two columns, (columns, columns) float32: how errors in weights of one
    column can be made up for by those of another.
    """

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self.products = torch.zeros(columns, columns)

    def see(self, x: Tensor) -> None:
        wide = x.to(torch.float32)
        self.products.addmm_(wide.t(), wide)
