"""Conjugate gradients for the systems of all λ and all classes at once, which share each product with the matrix.

Where the matrix lies in many places, reading it costs more than multiplying: one pass over it serves all systems
that have not yet converged. A few passes at the beginning find the largest eigenvalues of G, which are what makes
conjugate gradients slow. They precondition G + λI for every λ: the Nyström preconditioner of Frangella, Tropp and
Udell (SIAM Journal on Matrix Analysis and Applications 44, 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.arrays import Floats, Indices

TOLERANCE = 1e-9
"""The relative residual at which a system has converged."""

MOST_PASSES = 1_000
"""The largest number of passes over the matrix."""

RANK = 512
"""The number of eigenvalues to find, at most."""

EIGENVALUE_SHARE = 4
"""Only the largest d/4 of the d eigenvalues are found at most: smaller ones hardly slow convergence."""

COLUMNS = 64
"""The number of columns per product while they are looked for."""

Multiply = Callable[[Floats], Floats]
"""Returns G x for x, float64 (d, k)."""


class Solved(NamedTuple):
    """The solutions of all systems.

    Attributes:
        weights: float64 (n_lambdas, d, n_classes).
        residuals: the relative residual of each system, ‖b − Aw‖ / ‖b‖, float64 (n_lambdas, n_classes).
        passes: the number of products with the matrix.
    """

    weights: Floats
    residuals: Floats
    passes: int


class Nystrom(NamedTuple):
    """G ≈ U diag(s) Uᵀ, of low rank.

    Attributes:
        vectors: U, float64 (d, r), orthonormal.
        eigenvalues: s, float64 (r,), descending and not negative.
        passes: the number of products with the matrix that it took.
    """

    vectors: Floats
    eigenvalues: Floats
    passes: int

    @classmethod
    def of(cls, multiply: Multiply, d: int, seed: int = 0) -> Nystrom:
        """Approximate G from its products with random vectors (algorithm 2.1 of the paper)."""
        rank = min(RANK, d // EIGENVALUE_SHARE)
        if not rank:
            return cls(np.zeros((d, 0)), np.zeros(0), 0)
        test = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, rank)))[0]
        chunks = [slice(start, start + COLUMNS) for start in range(0, rank, COLUMNS)]
        product = np.concatenate([multiply(np.ascontiguousarray(test[:, chunk])) for chunk in chunks], axis=1)
        # a shift by what rounding amounts to, so that the small matrix has a Cholesky factor
        shift = np.sqrt(d) * np.finfo(np.float64).eps * float(np.linalg.norm(product))
        product += shift * test
        small = test.T @ product
        try:
            factor = np.linalg.cholesky((small + small.T) / 2)
        except np.linalg.LinAlgError:  # G is 0, or as good as that
            return cls(np.zeros((d, 0)), np.zeros(0), len(chunks))
        vectors, roots, _ = np.linalg.svd(np.linalg.solve(factor, product.T).T, full_matrices=False)
        return cls(vectors, np.maximum(roots**2 - shift, 0), len(chunks))

    def factors(self, weights: Floats) -> Floats:
        """Return what multiplies the coordinates along U in `solve`, less 1: float64 (r, k) for k weights."""
        if not len(self.eigenvalues):
            return np.zeros((0, len(weights)))
        smallest = np.finfo(np.float64).eps * self.eigenvalues[0]
        shifted: Floats = self.eigenvalues[:, None] + weights + smallest
        return np.asarray(shifted[-1] / shifted - 1)


def solve_by_gradients(multiply: Multiply, right: Floats, weights: Sequence[float]) -> Solved:
    """Solve (G + λI) W = B for each λ. Where λ is 0 and G is singular, B must be in its range.

    Args:
        multiply: multiplies with G, which is positive semidefinite.
        right: B, float64 (d, n_classes).
        weights: what to add to the diagonal, one number for each λ.
    """
    n_lambdas, (d, n_classes) = len(weights), right.shape
    nystrom = Nystrom.of(multiply, d)
    # columns are systems: λ by λ, class by class
    weight = np.repeat(np.asarray(weights, np.float64), n_classes)
    factors = nystrom.factors(weight)

    def precondition(r: Floats, of: Indices) -> Floats:
        return np.asarray(r + nystrom.vectors @ (factors[:, of] * (nystrom.vectors.T @ r)))

    b = np.tile(right, n_lambdas)
    length = np.maximum(np.linalg.norm(b, axis=0), np.finfo(np.float64).tiny)
    x, residual = np.zeros_like(b), b.copy()
    left = np.flatnonzero(np.linalg.norm(residual, axis=0) > TOLERANCE * length)
    direction = precondition(residual, np.arange(b.shape[1]))
    squares = np.einsum("ij,ij->j", residual, direction)
    passes = nystrom.passes
    while len(left) and passes < MOST_PASSES:
        along = direction[:, left]
        product = multiply(along) + weight[left] * along
        step = squares[left] / np.einsum("ij,ij->j", along, product)
        x[:, left] += step * along
        residual[:, left] -= step * product
        better = precondition(residual[:, left], left)
        new = np.einsum("ij,ij->j", residual[:, left], better)
        direction[:, left] = better + new / squares[left] * along
        squares[left] = new
        passes += 1
        left = np.flatnonzero(np.linalg.norm(residual, axis=0) > TOLERANCE * length)
    # what the recursion lost in rounding shows in the residual itself
    residuals = np.linalg.norm(b - multiply(x) - weight * x, axis=0) / length
    found = x.T.reshape(n_lambdas, n_classes, d).transpose(0, 2, 1)
    return Solved(np.ascontiguousarray(found), residuals.reshape(n_lambdas, n_classes), passes + 1)
