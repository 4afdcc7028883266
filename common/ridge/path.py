"""The ridge path: the weights at every λ of a grid, from moments.

For centred X and Y, ridge regression minimises ‖Xw − y‖² + λ‖w‖² in each column y of Y, so that

    w = (XᵀX + λI)⁻¹ Xᵀy.

With XᵀX = Q diag(s) Qᵀ this is w = Q diag(1 / (s + λ)) Qᵀ Xᵀy: one factorisation for all λ (Hastie, Tibshirani,
Friedman, The Elements of Statistical Learning, 2nd ed., section 3.4.1). The intercept is not penalised: centring
takes it out, and b = ȳ − μᵀw brings it back.

λ is in units of pixel intensities in [0, 1], as are the weights; moments are in 0 to 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from common.arrays import Floats, Indices, Labels, Pixels, Singles
from common.data.splits import shard
from common.features.pixels import features
from common.ridge.moments import Moments

INTENSITY = 255.0
"""Full intensity of a pixel: what features are divided by to lie in [0, 1]."""

PENALTIES = ("sum", "mean")

EPSILON = float(np.finfo(np.float64).eps)

PRODUCT_ROWS = 512
"""Images of one product with the weights: their float32 features stay in a core's own cache."""

UNIT = 2.0**-24
"""Unit roundoff of float32."""

SMALLEST, LARGEST = 2.0**-149, 2.0**127
"""About the smallest float32 above 0, and the largest."""

SCORE_BYTES = 32 << 20
"""How much memory the scores of one block of images may take."""


def penalty_weight(lambda_: float, penalty: str, n: int) -> float:
    """λ as it is added to the Gram matrix of 0-to-255 features.

    "sum" is ‖Xw − y‖² + λ‖w‖², "mean" is ‖Xw − y‖²/n + λ‖w‖², the same as the sum at nλ.
    """
    return lambda_ * INTENSITY**2 * {"sum": 1, "mean": n}[penalty]


@dataclass(frozen=True)
class RidgePath:
    """Weights at several λ.

    Attributes:
        weights: float64 (n_lambdas, d, n_classes), for intensities in [0, 1].
        intercepts: float64 (n_lambdas, n_classes).
    """

    weights: Floats
    intercepts: Floats

    def scores(self, pixels: Pixels) -> Floats:
        """Scores, float64 (n, n_lambdas, n_classes), of uint8 (n, height, width, channels), all at once."""
        scores: Floats = features(pixels).astype(np.float64) @ self._stacked
        return scores.reshape(len(pixels), *self.intercepts.shape) + self.intercepts

    @cached_property
    def _stacked(self) -> Floats:
        """The weights for intensities in 0 to 255, side by side: (d, n_lambdas · n_classes), for one product."""
        n_lambdas, d, n_classes = self.weights.shape
        return np.moveaxis(self.weights, 1, 0).reshape(d, n_lambdas * n_classes) / INTENSITY

    def count_correct(self, pixels: Pixels, labels: Labels) -> Labels:
        """How many images each λ classifies correctly, int64 (n_lambdas,), as float64 scores have it."""
        correct = np.zeros(len(self.intercepts), np.int64)
        for block, scores in self._single_scores(pixels):
            truth, every = labels[block], np.arange(scores.shape[2])
            true_score = scores[truth, :, every].T  # (n_lambdas, rows)
            scores[truth, :, every] = -np.inf
            margin = true_score - scores.max(axis=0)
            right = margin > 0
            rows = self._doubtful(pixels[block], margin)
            right[:, rows] = (self.scores(pixels[block][rows]).argmax(axis=2) == truth[rows, None]).T
            correct += right.sum(axis=1)
        return correct

    def best_classes(self, pixels: Pixels) -> tuple[Labels, Floats]:
        """The class of the highest float64 score at each λ, int64 (n, n_lambdas), and how sure it is.

        How sure: its score minus the next, float64 (n, n_lambdas), to the precision of float32.
        """
        classes = np.empty((len(pixels), len(self.intercepts)), np.int64)
        margins = np.empty(classes.shape)
        for block, scores in self._single_scores(pixels):
            best = scores.argmax(axis=0)[None]
            margin = np.take_along_axis(scores, best, axis=0)[0]
            np.put_along_axis(scores, best, -np.inf, axis=0)
            margin -= scores.max(axis=0)
            classes[block], margins[block] = best[0].T, margin.T
            rows = self._doubtful(pixels[block], margin)
            classes[block][rows] = self.scores(pixels[block][rows]).argmax(axis=2)
        return classes, margins

    def _single_scores(self, pixels: Pixels) -> Iterator[tuple[slice, Singles]]:
        """Scores in float32, which cost half of what float64 does.

        Yields:
            which images, and their scores (n_classes, n_lambdas, rows): images last, so that vectors compare them.
        """
        x = features(pixels)
        n_lambdas, n_classes = self.intercepts.shape
        rows = score_rows(self.intercepts.size)
        intercepts = self.intercepts.T.astype(np.float32)[:, :, None]
        buffer = np.empty((PRODUCT_ROWS, x.shape[1]), np.float32)  # a new one each time would cost page faults
        for start in range(0, len(x), rows):
            block = slice(start, min(start + rows, len(x)))
            scores = np.empty((n_classes * n_lambdas, block.stop - start), np.float32)
            products = math.ceil((block.stop - start) / PRODUCT_ROWS)  # of even size: a small one is slow
            for part in range(products):
                own_rows = shard(block.stop - start, part, products)
                own = x[block][own_rows]
                single = buffer[: len(own)]
                single[...] = own
                scores[:, own_rows] = (single @ self._singles.weights).T
            by_class = scores.reshape(n_classes, n_lambdas, -1)
            by_class += intercepts
            yield block, by_class

    def _doubtful(self, pixels: Pixels, margin: Singles) -> Indices:
        """Of which images two float32 scores are so close, (n_lambdas, n), that rounding may have swapped them.

        The sum of b and d products with weights rounded to float32 is off by at most γ (‖x‖ ‖w‖ + |b|), where
        γ = (d + 3) u / (1 − (d + 3) u), u = 2⁻²⁴, in whatever order it is summed (Higham, Accuracy and Stability
        of Numerical Algorithms, 2nd ed., section 3.1, and Cauchy and Schwarz). As no ‖x‖ exceeds 255 √d, most
        images are told to be safe without it.
        """
        x = features(pixels)
        d = x.shape[1]
        gamma = (d + 3) * UNIT / (1 - (d + 3) * UNIT)
        underflow = 2 * d * INTENSITY * SMALLEST  # what weights too small for float32 may lose besides

        def doubt(lengths: Singles | float) -> Floats:
            # twice, for a score and its rival; a length is rounded too, hence a little more
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
        """The weights for intensities in 0 to 255 in float32, and how large they are."""
        by_class = np.ascontiguousarray(self.weights.transpose(2, 0, 1)) / INTENSITY  # (n_classes, n_lambdas, d)
        weights = np.ascontiguousarray(by_class.reshape(-1, by_class.shape[2]).T, np.float32)
        norms = np.sqrt(np.square(by_class).sum(axis=2).max(axis=0))
        return _Singles(weights, norms, np.abs(self.intercepts).max(axis=1))


class _Singles(NamedTuple):
    """Weights in float32.

    Attributes:
        weights: float32 (d, n_classes · n_lambdas).
        norms: float64 (n_lambdas,), the largest Euclidean norm of a class's weights.
        intercepts: float64 (n_lambdas,), the largest absolute intercept.
    """

    weights: Singles
    norms: Floats
    intercepts: Floats


def score_rows(columns: int) -> int:
    """How many images to score at once when each has this many scores."""
    return min(2048, max(1, SCORE_BYTES // (8 * columns)))


@dataclass(frozen=True)
class Spectrum:
    """A centred Gram matrix, taken apart.

    Attributes:
        eigenvalues: s, float64 (d,), ascending, none below 0.
        vectors: Q, float64 (d, d), a column each.
        cross: XᵀY centred, float64 (d, n_classes).
    """

    eigenvalues: Floats
    vectors: Floats
    cross: Floats

    @classmethod
    def of(cls, gram: Floats, cross: Floats) -> Spectrum:
        """Decompose a centred Gram matrix (d, d).

        In exact arithmetic no eigenvalue is negative. Where the images do not vary (constant pixels above all)
        rounding makes of 0 something small of either sign, which is set back to 0.
        """
        eigenvalues, vectors = np.linalg.eigh(gram)
        return cls(np.maximum(eigenvalues, 0), vectors, cross)

    def solve(self, weight: float, right: Floats) -> Floats:
        """(XᵀX + λI)⁻¹ right for right (d, k), without the inverse; of least norm where λ = 0 leaves a choice."""
        reciprocals = self._reciprocals(self.eigenvalues + weight, weight)
        return self.vectors @ ((self.vectors.T @ right) * reciprocals[:, None])

    def inverse_rows(self, weight: float, rows: slice) -> Floats:
        """Rows of the pseudo-inverse (XᵀX + λI)⁻¹ itself, float64 (len(rows), d).

        Directions in which the images do not vary are left out. XᵀY has no part in them but for rounding errors,
        which 1/λ would make large, and an inverse alone has no second step to correct them.
        """
        return (self.vectors[rows] * self._reciprocals(self.eigenvalues, weight)) @ self.vectors.T

    def _reciprocals(self, significant: Floats, weight: float) -> Floats:
        """1 / (s + λ), float64 (d,); 0 in directions whose `significant` number is 0 to working precision."""
        counts = significant > len(significant) * EPSILON * self.eigenvalues[-1]
        return np.divide(1, self.eigenvalues + weight, out=np.zeros(len(counts)), where=counts)


def ridge_path(moments: Moments, lambdas: Sequence[float], penalty: str = "sum") -> RidgePath:
    """Fit every λ with one eigendecomposition.

    The eigenvectors of a Gram matrix are accurate relative to its largest eigenvalue, which costs digits where
    λ is small. One step of iterative refinement (residual in float64, correction by the same factors: Golub and
    Van Loan, Matrix Computations, 4th ed., section 3.5.3) brings them back for two more small products.

    Args:
        moments: of the training images.
        lambdas: finite and not negative.
        penalty: "sum" or "mean".
    """
    gram, cross = moments.centred()
    spectrum = Spectrum.of(gram, cross)
    weights = np.empty((len(lambdas), *cross.shape))
    for w, lambda_ in zip(weights, lambdas, strict=True):
        weight = penalty_weight(lambda_, penalty, moments.n)
        w[...] = spectrum.solve(weight, cross)
        w += spectrum.solve(weight, cross - gram @ w - weight * w)
    return with_intercepts(moments, weights)


Solver = Callable[[Floats, Floats], Floats]
"""Solves A X = B for a symmetric positive definite A (d, d), which it may overwrite, and B (d, k)."""


def solve_alone(system: Floats, right: Floats) -> Floats:
    """Numpy's LU: it offers no solve with Cholesky factors, and scipy's brings a second BLAS.

    The threads of the one would stand in the way of the other's.
    """
    return np.asarray(np.linalg.solve(system, right), np.float64)


def ridge_fit(moments: Moments, lambda_: float, penalty: str = "sum", solve: Solver = solve_alone) -> RidgePath:
    """Fit a single λ by one linear solve: a path of length one."""
    return ridge_fits(moments, [lambda_], penalty, solve)


def ridge_fits(
    moments: Moments, lambdas: Sequence[float], penalty: str = "sum", solve: Solver = solve_alone
) -> RidgePath:
    """Fit each λ by a linear solve of its own.

    The system is scaled to a unit diagonal first, which is close to the best that any diagonal scaling does for
    its condition (van der Sluis, Numerische Mathematik 14, 1969): pixels that hardly ever vary keep their digits
    beside those that always do.

    Args:
        moments: of the training images.
        lambdas: finite and not negative.
        penalty: "sum" or "mean".
        solve: another solver, which raises LinAlgError where a system is singular to working precision.
    """
    gram, cross = moments.centred()
    diagonal = gram.diagonal().copy()
    weights = np.empty((len(lambdas), *cross.shape))
    for w, lambda_ in zip(weights, lambdas, strict=True):
        weight = penalty_weight(lambda_, penalty, moments.n)
        try:
            if weight <= len(gram) * EPSILON * diagonal.sum():  # λ drowns in rounding errors, as λ = 0 does
                raise np.linalg.LinAlgError
            scale = 1 / np.sqrt(diagonal + weight)
            system = gram * scale[:, None]
            system *= scale
            system.flat[:: len(gram) + 1] = 1
            w[...] = solve(system, cross * scale[:, None]) * scale[:, None]
        except np.linalg.LinAlgError:
            w[...] = ridge_path(moments, [lambda_], penalty).weights[0] / INTENSITY
    return with_intercepts(moments, weights)


def with_intercepts(moments: Moments, weights: Floats) -> RidgePath:
    """The path of weights (n_lambdas, d, n_classes) for intensities in 0 to 255, as centred data gave them."""
    intercepts = (moments.sum_y - np.einsum("d,ldc->lc", moments.sum_x, weights)) / moments.n
    return RidgePath(weights * INTENSITY, intercepts)


def best_lambda(correct: Labels, lambdas: Sequence[float]) -> int:
    """The position of the best λ: most images correct, and of exact ties the largest λ."""
    return max(range(len(lambdas)), key=lambda i: (int(correct[i]), lambdas[i]))
