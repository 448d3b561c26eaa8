"""Rounding to few bits column by column, where the error of each column is made up for by those that follow:
GPTQ (Frantar et al., 2022, arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 64  # columns whose errors are carried beyond them together
_DAMPING = 0.01  # of the mean diagonal, added to it: what a short text does not tell

# The numbers of a format that are nearest to some weights over their scales, given the zero points.
Nearest = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Feedback:
    """How errors in one column are made up for by others, for all matrices that have the same inputs.

    Attributes:
        order: of the columns. Those that matter most come first, while there are many to make up for them.
        factor: (columns, columns) float32, upper triangular, in that order.
    """

    order: Tensor
    factor: Tensor

    @classmethod
    def of(cls, products: Tensor) -> Feedback:
        """`products`: (columns, columns) float32, sums of products of the inputs' columns."""
        order = products.diagonal().argsort(descending=True)
        return cls(order, _factor(products[order][:, order]))


def round_with_feedback(
    weight: Tensor, feedback: Feedback, scales: Tensor, zeros: Tensor, nearest: Nearest
) -> Tensor:
    """The numbers that weights become, (rows, columns) float32: they stand for ``(number - zero) * scale``.

    Args:
        weight: (rows, columns) float32.
        feedback: of its inputs.
        scales: of each weight, (rows, columns) float32.
        zeros: the same.
    """
    order, factor = feedback.order, feedback.factor
    rest, scales, zeros = weight.t()[order], scales.t()[order], zeros.t()[order]
    numbers = torch.empty_like(rest)
    # All are (columns, rows), so that a column lies together.
    for start in range(0, len(rest), _BLOCK):
        end = min(start + _BLOCK, len(rest))
        errors = torch.empty_like(rest[start:end])
        for i in range(start, end):
            numbers[i] = nearest(rest[i] / scales[i], zeros[i])
            error = (rest[i] - (numbers[i] - zeros[i]) * scales[i]) / factor[i, i]
            rest[i + 1 : end].addr_(factor[i, i + 1 : end], error, alpha=-1)
            errors[i - start] = error
        rest[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    placed = torch.empty_like(weight)
    placed[:, order] = numbers.t()
    return placed


def _factor(products: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the products, damped until there is one."""
    damped = products.clone()
    diagonal = damped.diagonal()
    # A column that is always zero says nothing, and any weight does.
    diagonal[diagonal == 0] = 1.0
    step = _DAMPING * float(diagonal.mean())
    while True:
        diagonal += step
        # The factor of a matrix read from its end, read from its end, is upper triangular; so is its inverse,
        # and that is the factor of the matrix's inverse, which need not be computed.
        factor, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not int(failed):
            upper: Tensor
            upper = torch.linalg.solve_triangular(factor.flip(0, 1), torch.eye(len(factor)), upper=True)
            return upper
        step *= 10
