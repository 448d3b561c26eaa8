"""Rounding to few bits column by column, where the error of each column is made up for by those that follow:
GPTQ (Frantar et al., 2022, arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 128  # columns whose errors are carried beyond them together
_DAMPING = 0.01  # of the mean diagonal, added to it: what a short text does not tell


class Grid(NamedTuple):
    """Where the weights of a group may lie: ``(integer - zero) * scale``, integers 0 to 15.

    Attributes:
        scales: (rows,), in the type in which they are kept.
        zeros: (rows,) float32.
    """

    scales: Tensor
    zeros: Tensor


class Rounded(NamedTuple):
    """
    Attributes:
        integers: (rows, columns) float32, 0 to 15.
        scales, zeros: (rows, groups), as in `Grid`.
        meant: (rows, columns) float32, what they stand for.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    meant: Tensor


def round_with_feedback(
    weight: Tensor, products: Tensor, group_size: int, find_grid: Callable[[Tensor], Grid]
) -> Rounded:
    """
    Args:
        weight: (rows, columns) float32.
        products: (columns, columns) float32, sums of products of the input's columns.
        group_size: columns that share a grid: a divisor of 128, or all of them.
        find_grid: the grid for a group's weights (rows, columns of the group).
    """
    columns = weight.shape[1]
    rest = weight.clone()
    integers, meant = torch.empty_like(weight), torch.empty_like(weight)
    feedback = _feedback(products)
    grids: list[Grid] = []
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        block, of_block = rest[:, start:end], feedback[start:end, start:end]
        errors = torch.empty_like(block)
        for i in range(end - start):
            if (start + i) % group_size == 0:
                grids.append(find_grid(rest[:, start + i : start + i + group_size]))
                scales, zeros = grids[-1].scales.to(torch.float32), grids[-1].zeros
            column = block[:, i]
            numbers = ((column / scales).round_() + zeros).clamp_(0, 15)
            value = (numbers - zeros) * scales
            integers[:, start + i], meant[:, start + i] = numbers, value
            errors[:, i] = (column - value) / of_block[i, i]
            block[:, i + 1 :] -= errors[:, i, None] * of_block[i, i + 1 :]
        rest[:, end:] -= errors @ feedback[start:end, end:]
    return Rounded(
        integers,
        torch.stack([grid.scales for grid in grids], 1),
        torch.stack([grid.zeros for grid in grids], 1),
        meant,
    )


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
