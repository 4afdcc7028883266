"""The ridge path: the weights at every λ of a grid, from moments.

For centred X and Y, ridge regression minimises ‖Xw − y‖² + λ‖w‖² in each column y of Y, so that

    w = (XᵀX + λI)⁻¹ Xᵀy.

With XᵀX = Q diag(s) Qᵀ this is w = Q diag(1 / (s + λ)) Qᵀ Xᵀy: one factorisation for all λ (Hastie, Tibshirani,
Friedman, The Elements of Statistical Learning, 2nd ed., section 3.4.1). The intercept is not penalised: centring
takes it out, and b = ȳ − μᵀw brings it back.

λ and the weights are for features in [0, 1]; moments are of features from 0 to 255.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from common.arrays import Features, Floats, Indices, Labels, Singles
from common.data.splits import shard
from common.ridge.penalty import INTENSITY, CentredSums, Sums, centred_system, penalty_weight, times_scale
from common.ridge.solvers import Solver, solve_alone, solve_by_cholesky

EPSILON = float(np.finfo(np.float64).eps)

PRODUCT_ROWS = 512
"""The number of images per product with the weights: their float32 features stay in a core's own cache."""

UNIT = 2.0**-24
"""Unit roundoff of float32."""

DIGITS, FEATURE_DIGITS = 53, 8
"""Binary digits of float64 and of a feature."""

LEAST_EXPONENT = -900
"""The exponent of the largest weight below which digits are lost, lest their unit underflow."""

SMALLEST, LARGEST = 2.0**-149, 2.0**127
"""The smallest float32 above 0, and about the largest."""

MOST_DECOMPOSED = 3_000
"""Features up to which one eigendecomposition serves all λ."""
MOST_FACTORISED = 27
"""λ up to which as many Cholesky factorisations cost less than an eigendecomposition."""

SCORE_BYTES = 32 << 20
"""The memory that the scores of one block of images may take."""


@dataclass(frozen=True)
class RidgePath:
    """Weights at several λ.

    Attributes:
        weights: float64 (n_lambdas, d, n_classes), for features in [0, 1].
        intercepts: float64 (n_lambdas, n_classes).
    """

    weights: Floats
    intercepts: Floats

    def scores(self, x: Features) -> Floats:
        """Return float64 scores (n, n_lambdas, n_classes) of features, uint8 (n, d).

        An image has the same scores, to the last bit, alone and in any batch, with any BLAS and any threads: both
        products are exact, in whatever order they are summed.
        """
        coarse, fine = self.parts
        numbers = x.astype(np.float64)
        scores: Floats = numbers @ coarse
        scores += numbers @ fine
        return scores.reshape(len(x), *self.intercepts.shape) + self.intercepts

    @cached_property
    def parts(self) -> tuple[Floats, Floats]:
        """The weights for features from 0 to 255, as the sum of two arrays (d, n_lambdas · n_classes).

        Each column of an array consists of multiples of one power of 2, no more than ± 2ᵇ of it. d products of
        these with features below 2⁸ add up to less than d 2⁸⁺ᵇ ≤ 2⁵³ of it, which float64 holds exactly. Together
        the arrays have 2b digits of the largest weight: more than float64 has, up to 200,000 features.
        """
        n_lambdas, d, n_classes = self.weights.shape
        weights = np.moveaxis(self.weights, 1, 0).reshape(d, n_lambdas * n_classes) / INTENSITY
        digits = DIGITS - FEATURE_DIGITS - math.ceil(math.log2(d))
        _, exponents = np.frexp(np.maximum(weights.max(axis=0), -weights.min(axis=0)))
        unit = np.ldexp(1.0, np.maximum(exponents, LEAST_EXPONENT) - digits)
        coarse = _rounded(weights.copy(), unit)
        weights -= coarse
        return coarse, _rounded(weights, np.ldexp(unit, -digits))

    def count_correct(self, x: Features, labels: Labels) -> Labels:
        """Count the images that each λ classifies correctly by float64 scores.

        Args:
            x: features, uint8 (n, d).
            labels: true classes, int64 (n,).

        Returns:
            int64 (n_lambdas,).
        """
        correct = np.zeros(len(self.intercepts), np.int64)
        for block, scores in self._single_scores(x):
            truth, every = labels[block], np.arange(scores.shape[2])
            true_score = scores[truth, :, every].T  # (n_lambdas, rows)
            scores[truth, :, every] = -np.inf
            margin = true_score - scores.max(axis=0)
            right = margin > 0
            rows = self._doubtful(x[block], margin)
            right[:, rows] = (self.scores(x[block][rows]).argmax(axis=2) == truth[rows, None]).T
            correct += right.sum(axis=1)
        return correct

    def best_classes(self, x: Features) -> tuple[Labels, Floats]:
        """Return the class of the highest float64 score at each λ, and its margin.

        Args:
            x: features, uint8 (n, d).

        Returns:
            classes, int64 (n, n_lambdas); and margins, float64 (n, n_lambdas): the highest score minus the next,
            to the precision of float32.
        """
        classes = np.empty((len(x), len(self.intercepts)), np.int64)
        margins = np.empty(classes.shape)
        for block, scores in self._single_scores(x):
            best = scores.argmax(axis=0)[None]
            margin = np.take_along_axis(scores, best, axis=0)[0]
            np.put_along_axis(scores, best, -np.inf, axis=0)
            margin -= scores.max(axis=0)
            classes[block], margins[block] = best[0].T, margin.T
            rows = self._doubtful(x[block], margin)
            classes[block][rows] = self.scores(x[block][rows]).argmax(axis=2)
        return classes, margins

    def _single_scores(self, x: Features) -> Iterator[tuple[slice, Singles]]:
        """Compute scores in float32, at half the cost of float64.

        Yields:
            positions of images, and their scores, float32 (n_classes, n_lambdas, rows). Images come last, so that
            comparisons between classes are vectorised.
        """
        n_lambdas, n_classes = self.intercepts.shape
        rows = score_rows(self.intercepts.size)
        intercepts = self.intercepts.T.astype(np.float32)[:, :, None]
        buffer = np.empty((PRODUCT_ROWS, x.shape[1]), np.float32)
        for start in range(0, len(x), rows):
            block = slice(start, min(start + rows, len(x)))
            scores = np.empty((n_classes * n_lambdas, block.stop - start), np.float32)
            products = math.ceil((block.stop - start) / PRODUCT_ROWS)  # of even size, because a small one is slow
            for part in range(products):
                own_rows = shard(block.stop - start, part, products)
                own = x[block][own_rows]
                single = buffer[: len(own)]
                single[...] = own
                scores[:, own_rows] = (single @ self._singles.weights).T
            by_class = scores.reshape(n_classes, n_lambdas, -1)
            by_class += intercepts
            yield block, by_class

    def _doubtful(self, x: Features, margin: Singles) -> Indices:
        """Return the positions of images whose two best float32 scores rounding may have swapped.

        The sum of b and d products with weights rounded to float32 is off by at most γ (‖x‖ ‖w‖ + |b|) with
        γ = (d + 3) u / (1 − (d + 3) u) and u = 2⁻²⁴, whatever the order of summation (Higham, Accuracy and
        Stability of Numerical Algorithms, 2nd ed., section 3.1, with the Cauchy-Schwarz inequality). No ‖x‖
        exceeds 255 √d, so most images are cleared without computing ‖x‖.

        Args:
            x: features, uint8 (n, d).
            margin: the difference of the two scores, float32 (n_lambdas, n).
        """
        d = x.shape[1]
        gamma = (d + 3) * UNIT / (1 - (d + 3) * UNIT)
        underflow = 2 * d * INTENSITY * SMALLEST  # lost by weights that are too small for float32

        def doubt(lengths: Singles | float) -> Floats:
            # Twice, for a score and its rival. Lengths are rounded too, hence slightly more than 2.
            bound: Floats = self._singles.norms[:, None] * lengths + self._singles.intercepts[:, None]
            bound *= 2.01 * gamma
            bound += underflow
            return bound

        bound = doubt(INTENSITY * math.sqrt(d))
        if bound.max() > gamma * LARGEST:  # scores could leave the range of float32
            return np.arange(len(x))
        rows = np.flatnonzero((np.abs(margin) <= bound).any(axis=0))
        lengths = np.linalg.norm(x[rows].astype(np.float32), axis=1)
        return rows[(np.abs(margin[:, rows]) <= doubt(lengths)).any(axis=0)]

    @cached_property
    def _singles(self) -> _Singles:
        """The weights for features from 0 to 255 in float32, and their sizes."""
        by_class = np.ascontiguousarray(self.weights.transpose(2, 0, 1)) / INTENSITY  # (n_classes, n_lambdas, d)
        weights = np.ascontiguousarray(by_class.reshape(-1, by_class.shape[2]).T, np.float32)
        norms = np.sqrt(np.square(by_class).sum(axis=2).max(axis=0))
        return _Singles(weights, norms, np.abs(self.intercepts).max(axis=1))


class _Singles(NamedTuple):
    """Weights in float32 and their sizes.

    Attributes:
        weights: float32 (d, n_classes · n_lambdas).
        norms: the largest Euclidean norm of the weights of a class, float64 (n_lambdas,).
        intercepts: the largest absolute intercept, float64 (n_lambdas,).
    """

    weights: Singles
    norms: Floats
    intercepts: Floats


def _rounded(numbers: Floats, unit: Floats) -> Floats:
    """Round numbers (n, columns) to multiples of a power of 2 per column, in place."""
    numbers /= unit
    np.rint(numbers, out=numbers)
    numbers *= unit
    return numbers


def score_rows(columns: int) -> int:
    """Return how many images to score at once if each has so many scores."""
    return min(2048, max(1, SCORE_BYTES // (8 * columns)))


@dataclass(frozen=True)
class Spectrum:
    """The eigendecomposition of a centred Gram matrix.

    Attributes:
        eigenvalues: s, float64 (d,), ascending and not negative.
        vectors: Q, float64 (d, d), one eigenvector per column.
        cross: centred XᵀY, float64 (d, n_classes).
        scale: of the features, float64 (d,); None if they are as they were.
    """

    eigenvalues: Floats
    vectors: Floats
    cross: Floats
    scale: Floats | None = None

    @classmethod
    def of(cls, gram: Floats, cross: Floats, scale: Floats | None = None) -> Spectrum:
        """Decompose a centred Gram matrix (d, d).

        In exact arithmetic no eigenvalue is negative. Along directions in which the images do not vary, such as
        constant pixels, rounding turns 0 into a small number of either sign. Negative ones are set back to 0.
        """
        eigenvalues, vectors = np.linalg.eigh(gram)
        return cls(np.maximum(eigenvalues, 0), vectors, cross, scale)

    def solve(self, weight: float, right: Floats) -> Floats:
        """Return (XᵀX + λI)⁻¹ right for right (d, k) without forming the inverse; of least norm if λ = 0."""
        reciprocals = self._reciprocals(self.eigenvalues + weight, weight)
        return self.vectors @ ((self.vectors.T @ right) * reciprocals[:, None])

    def inverse_rows(self, weight: float, rows: slice) -> Floats:
        """Return rows of the pseudo-inverse (XᵀX + λI)⁻¹, float64 (len(rows), d).

        Directions in which the images do not vary are left out. XᵀY has only rounding errors there, which 1/λ
        would amplify, and a product with the inverse has no refinement step to correct them.
        """
        return (self.vectors[rows] * self._reciprocals(self.eigenvalues, weight)) @ self.vectors.T

    def _reciprocals(self, significant: Floats, weight: float) -> Floats:
        """Return 1 / (s + λ), float64 (d,), with 0 where `significant` is 0 to working precision."""
        counts = significant > len(significant) * EPSILON * self.eigenvalues[-1]
        return np.divide(1, self.eigenvalues + weight, out=np.zeros(len(counts)), where=counts)


def ridge_path(moments: CentredSums, lambdas: Sequence[float], penalty: str = "sum") -> RidgePath:
    """Fit every λ with one eigendecomposition, or of many features, with a Cholesky factorisation of its own.

    Args:
        moments: moments of the training images.
        lambdas: finite and not negative.
        penalty: "sum", "mean" or "scaled".
    """
    if len(moments.sum_x) > MOST_DECOMPOSED and len(lambdas) <= MOST_FACTORISED:
        return ridge_fits(moments, lambdas, penalty)
    return path_by_spectrum(moments, lambdas, penalty)


def path_by_spectrum(moments: CentredSums, lambdas: Sequence[float], penalty: str) -> RidgePath:
    """Fit every λ with one eigendecomposition; see ridge_path.

    Eigenvectors of a Gram matrix are accurate relative to its largest eigenvalue, which costs digits where λ is
    small. One step of iterative refinement brings them back for two more small products: the residual in float64,
    corrected by the same factors (Golub and Van Loan, Matrix Computations, 4th ed., section 3.5.3).
    """
    gram, cross, scale = centred_system(moments, penalty)
    spectrum = Spectrum.of(gram, cross)
    weights = np.empty((len(lambdas), *cross.shape))
    for w, lambda_ in zip(weights, lambdas, strict=True):
        weight = penalty_weight(lambda_, penalty, moments.n)
        w[...] = spectrum.solve(weight, cross)
        w += spectrum.solve(weight, cross - gram @ w - weight * w)
    return with_intercepts(moments, times_scale(weights, scale))


def ridge_fit(
    moments: CentredSums, lambda_: float, penalty: str = "sum", solve: Solver | None = None
) -> RidgePath:
    """Fit a single λ by one linear solve, and return a path of length one."""
    return ridge_fits(moments, [lambda_], penalty, solve)


def ridge_fits(
    moments: CentredSums, lambdas: Sequence[float], penalty: str = "sum", solve: Solver | None = None
) -> RidgePath:
    """Fit each λ by a linear solve of its own.

    The system is scaled to a unit diagonal first, which is close to the best condition number that any diagonal
    scaling can reach (van der Sluis, Numerische Mathematik 14, 1969). So features that hardly vary keep their
    digits beside features that vary a lot.

    Args:
        moments: moments of the training images.
        lambdas: finite and not negative.
        penalty: "sum", "mean" or "scaled".
        solve: a solver, which raises LinAlgError if a system is singular to working precision; None for the
            fastest at this number of features.
    """
    gram, cross, of_features = centred_system(moments, penalty)
    if solve is None:
        solve = solve_by_cholesky if len(gram) > MOST_DECOMPOSED else solve_alone
    diagonal = gram.diagonal().copy()
    weights = np.empty((len(lambdas), *cross.shape))
    system = np.empty_like(gram)
    for w, lambda_ in zip(weights, lambdas, strict=True):
        weight = penalty_weight(lambda_, penalty, moments.n)
        try:
            if weight <= len(gram) * EPSILON * diagonal.sum():  # λ is lost in rounding errors, as λ = 0 is
                raise np.linalg.LinAlgError
            scale = 1 / np.sqrt(diagonal + weight)
            np.multiply(gram, scale[:, None], out=system)
            system *= scale
            system.flat[:: len(gram) + 1] = 1
            w[...] = times_scale(solve(system, cross * scale[:, None]) * scale[:, None], of_features)
        except np.linalg.LinAlgError:
            w[...] = path_by_spectrum(moments, [lambda_], penalty).weights[0] / INTENSITY
    return with_intercepts(moments, weights)


def with_intercepts(moments: Sums, weights: Floats) -> RidgePath:
    """Return the path of weights (n_lambdas, d, n_classes) that centred features from 0 to 255 gave."""
    intercepts = (moments.sum_y - np.einsum("d,ldc->lc", moments.sum_x, weights)) / moments.n
    return RidgePath(weights * INTENSITY, intercepts)


def best_lambda(correct: Labels, lambdas: Sequence[float]) -> int:
    """Return the position of the λ with most correct images; of exact ties, the largest λ."""
    return max(range(len(lambdas)), key=lambda i: (int(correct[i]), lambdas[i]))
