"""Rounding to few bits column by column, where the error of each column is made up for by those that follow:
GPTQ (Frantar et al., 2022, arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 64  # columns whose errors are carried beyond them together
_DAMPING = 0.01  # of the mean diagonal, added to it: what a short text does not tell


class Grid(NamedTuple):
    """Where the weights of a group may lie: ``(integer - zero) * scale``, integers 0 to 15.

    Attributes:
        scales: (rows, groups), in the type in which they are kept.
        zeros: (rows, groups) float32.
    """

    scales: Tensor
    zeros: Tensor


class Rounded(NamedTuple):
    """
    Attributes:
        integers: (rows, columns) float32, 0 to 15.
        grid: what they stand for.
        meant: (rows, columns) float32: that.
    """

    integers: Tensor
    grid: Grid
    meant: Tensor


def round_with_feedback(
    weight: Tensor, products: Tensor, group_size: int, find_grid: Callable[[Tensor, Tensor], Grid]
) -> Rounded:
    """
    Args:
        weight: (rows, columns) float32.
        products: (columns, columns) float32, sums of products of the input's columns.
        group_size: columns that share a grid.
        find_grid: the grids for weights (rows, groups, columns of a group) whose errors count as much as
            their columns' squares, (groups, columns of a group).
    """
    squares = products.diagonal()
    groups = weight.view(len(weight), -1, group_size)
    grid = find_grid(groups, squares.view(-1, group_size))
    scales = grid.scales.to(torch.float32).repeat_interleave(group_size, 1)
    zeros = grid.zeros.repeat_interleave(group_size, 1)
    # Columns that matter most come first, while there are many to make up for them.
    order = squares.argsort(descending=True)
    feedback = _feedback(products[order][:, order])
    integers = _in_order(weight.t()[order], scales.t()[order], zeros.t()[order], feedback)
    placed = torch.empty_like(weight)
    placed[:, order] = integers.t()
    return Rounded(placed, grid, (placed - zeros) * scales)


def _in_order(rest: Tensor, scales: Tensor, zeros: Tensor, feedback: Tensor) -> Tensor:
    """The integers; all are (columns, rows), so that a column lies together. `rest` is changed."""
    integers = torch.empty_like(rest)
    for start in range(0, len(rest), _BLOCK):
        end = min(start + _BLOCK, len(rest))
        errors = torch.empty_like(rest[start:end])
        for i in range(start, end):
            numbers = ((rest[i] / scales[i]).round_() + zeros[i]).clamp_(0, 15)
            integers[i] = numbers
            error = (rest[i] - (numbers - zeros[i]) * scales[i]) / feedback[i, i]
            rest[i + 1 : end].addr_(feedback[i, i + 1 : end], error, alpha=-1)
            errors[i - start] = error
        rest[end:].addmm_(feedback[start:end, end:].t(), errors, alpha=-1)
    return integers


def _feedback(products: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the products, damped until there is one."""
    damped = products.clone()
    diagonal = damped.diagonal()
    # A column that is always zero says nothing, and any weight does.
    diagonal[diagonal == 0] = 1.0
    step = _DAMPING * float(diagonal.mean())
    while True:
        diagonal += step
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(factor)
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                return upper
        step *= 10
