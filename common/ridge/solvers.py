"""Solvers of one symmetric positive definite system with a few right sides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.arrays import Floats

BLOCK = 256
"""Columns that are factorised, and rows that are substituted, together."""

Solver = Callable[[Floats, Floats], Floats]
"""Solves A X = B for B (d, k) and a symmetric positive definite A (d, d), which it may overwrite."""


def solve_alone(system: Floats, right: Floats) -> Floats:
    """Solve A X = B by NumPy's LU.

    NumPy offers no solve with Cholesky factors. SciPy does, but it brings a second BLAS, whose threads would
    compete with those of the first.
    """
    return np.asarray(np.linalg.solve(system, right), np.float64)


def solve_by_cholesky(system: Floats, right: Floats) -> Floats:
    """Solve A X = B by Cholesky factors and substitution, with one step of refinement.

    The factor takes the place of A's lower triangle. The upper one stays for the refinement.

    Raises:
        LinAlgError: A is not positive definite to working precision.
    """
    on_diagonal = [system[block, block].copy() for block in _blocks(len(system))]
    factor = _factorised(system)
    found = _substituted(factor, right)
    return found + _substituted(factor, right - _product(system, on_diagonal, found))


def _blocks(d: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, d)) for start in range(0, d, BLOCK)]


def _product(upper: Floats, on_diagonal: list[Floats], x: Floats) -> Floats:
    """Return A X for X (d, k) and a symmetric A, of which there are the blocks on the diagonal and those above."""
    product = np.empty_like(x)
    for block, own in zip(_blocks(len(x)), on_diagonal, strict=True):
        product[block] = own @ x[block]
    for block in _blocks(len(x)):
        behind = slice(block.stop, None)
        product[block] += upper[block, behind] @ x[behind]
        product[behind] += upper[block, behind].T @ x[block]
    return product


def _factorised(matrix: Floats) -> Floats:
    """Overwrite the lower triangle of a matrix (d, d) with its Cholesky factor, block column by block column.

    Blocks above the diagonal stay as they are.

    Nearly all the work is in products of matrices (Golub and Van Loan, section 4.2.6), which takes two thirds of
    the time of NumPy's factorisation where there are thousands of columns. The blocks on the diagonal are
    inverted: they are small, and the step of refinement covers what that costs in digits.

    Raises:
        LinAlgError: it is not positive definite to working precision.
    """
    for block in _blocks(len(matrix)):
        before = slice(0, block.start)
        panel = matrix[block.start :, block]
        panel -= matrix[block.start :, before] @ matrix[block, before].T
        width = panel.shape[1]
        panel[:width] = np.linalg.cholesky(panel[:width])
        panel[width:] = panel[width:] @ np.linalg.inv(panel[:width]).T
    return matrix


def _substituted(factor: Floats, right: Floats) -> Floats:
    """Return (L Lᵀ)⁻¹ B for B (d, k) and the L (d, d) in a lower triangle."""
    x = right.copy()
    blocks = _blocks(len(factor))
    for block in blocks:
        before = slice(None, block.start)
        x[block] = np.linalg.solve(factor[block, block], x[block] - factor[block, before] @ x[before])
    for block in reversed(blocks):
        behind = slice(block.stop, None)
        x[block] = np.linalg.solve(factor[block, block].T, x[block] - factor[behind, block].T @ x[behind])
    return x
