"""What is kept of a linear's inputs while a text is read, for static scales and for error feedback."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from ozone.quantization.error_feedback import Feedback

_INT8_MAX = 127.0
_E4M3_MAX = 448.0
# How many scales are tried.
_STEPS = 60
# Of an int8 range: the least share of the largest magnitude that is tried as its end.
_LEAST_SHARE = 0.02
_PATTERNS = 1 << 16


class Observer(ABC):
    """Sees the inputs of one linear, a few tokens at a time."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    @abstractmethod
    def see(self, x: Tensor) -> None:
        """(tokens, columns), of any floating type."""


class _Values:
    """How often each number came. Those of 16 bits are few, and say all that a scale depends on."""

    def __init__(self) -> None:
        self._dtype = torch.bfloat16
        self._counts = torch.zeros(_PATTERNS, dtype=torch.int64)

    def see(self, x: Tensor) -> None:
        """Every input of a linear has one type; float32 is rounded to bfloat16."""
        if x.dtype is torch.float16:
            self._dtype = torch.float16
        bits = x.to(self._dtype).reshape(-1).view(torch.int16).to(torch.int32) & (_PATTERNS - 1)
        self._counts += torch.bincount(bits, minlength=_PATTERNS)

    def best_scale(self, fractions: Tensor, round_: Callable[[Tensor], Tensor]) -> float:
        """Of the largest magnitude times `fractions`, (n,) float64, the scale with which rounding gives the
        least sum of squared errors; 1 where all was zero.
        """
        seen = self._counts.nonzero().flatten()
        values = seen.to(torch.int16).view(self._dtype).to(torch.float64)
        counts = self._counts[seen].to(torch.float64)
        largest = float(values.abs().max()) if len(values) else 0.0
        if largest == 0.0:
            return 1.0
        scales = largest * fractions
        errors = torch.stack([(round_(values / s) * s - values).square_() @ counts for s in scales])
        return float(scales[errors.argmin()])


class InputValues(Observer):
    """The scale that rounds to int8 with the least sum of squared errors, clipping what is large and rare."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self._values = _Values()

    def see(self, x: Tensor) -> None:
        self._values.see(x)

    def scale(self) -> float:
        """1 for an input that was always zero."""
        shares = torch.logspace(0.0, math.log10(_LEAST_SHARE), _STEPS, dtype=torch.float64)
        return self._values.best_scale(
            shares / _INT8_MAX, lambda x: x.round().clamp_(-_INT8_MAX - 1, _INT8_MAX)
        )


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

    @cached_property
    def feedback(self) -> Feedback:
        """Asked for once all has been seen; the linears that are merged share it."""
        return Feedback.of(self.products)


class ValuesAndProducts(InputProducts):
    """Also the scale that rounds to e4m3 with the least sum of squared errors, clipping nothing: what is left
    to choose is where between two powers of two the largest numbers lie, and so how near to one of e4m3's.
    """

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self._values = _Values()

    def see(self, x: Tensor) -> None:
        super().see(x)
        self._values.see(x)

    def scale(self) -> float:
        """1 for an input that was always zero."""
        room = torch.logspace(0.0, math.log10(2.0), _STEPS + 1, dtype=torch.float64)
        return self._values.best_scale(
            room / _E4M3_MAX, lambda x: x.to(torch.float8_e4m3fn).to(torch.float64)
        )
