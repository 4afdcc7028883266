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

    Raises:
        LinAlgError: A is not positive definite to working precision.
    """
    factor = _factorised(system.copy())
    found = _substituted(factor, right)
    return found + _substituted(factor, right - system @ found)


def _factorised(matrix: Floats) -> Floats:
    """Overwrite the lower triangle of a matrix (d, d) with its Cholesky factor, block column by block column.

    Nearly all the work is in products of matrices (Golub and Van Loan, section 4.2.6), which takes two thirds of
    the time of NumPy's factorisation where there are thousands of columns. The blocks on the diagonal are
    inverted: they are small, and the step of refinement covers what that costs in digits.

    Raises:
        LinAlgError: it is not positive definite to working precision.
    """
    for start in range(0, len(matrix), BLOCK):
        block, before = slice(start, start + BLOCK), slice(0, start)
        panel = matrix[start:, block]
        panel -= matrix[start:, before] @ matrix[block, before].T
        width = panel.shape[1]
        panel[:width] = np.linalg.cholesky(panel[:width])
        panel[width:] = panel[width:] @ np.linalg.inv(panel[:width]).T
    return matrix


def _substituted(factor: Floats, right: Floats) -> Floats:
    """Return (L Lᵀ)⁻¹ B for B (d, k) and the L (d, d) in a lower triangle."""
    x = right.copy()
    blocks = [slice(start, start + BLOCK) for start in range(0, len(factor), BLOCK)]
    for block in blocks:
        before = slice(None, block.start)
        x[block] = np.linalg.solve(factor[block, block], x[block] - factor[block, before] @ x[before])
    for block in reversed(blocks):
        behind = slice(block.stop, None)
        x[block] = np.linalg.solve(factor[block, block].T, x[block] - factor[behind, block].T @ x[behind])
    return x
