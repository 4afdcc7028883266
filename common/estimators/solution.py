"""A fit to the moments of folds: λ is chosen by folds, and all rows are fitted at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.arrays import Floats
from common.estimators.folds import total
from common.estimators.row_sums import FoldedMoments, RowMoments, Rows, ThroughOrigin
from common.estimators.selection import scores_of_moments
from common.ridge.path import RidgePath, ridge_fit, ridge_path
from common.ridge.penalty import INTENSITY, PENALTIES


@dataclass(frozen=True)
class Grid:
    """The λ to choose from, and what they weigh on.

    Attributes:
        lambdas: for rows as they are, float64 (n_lambdas,).
        penalty: "sum", "mean" or "scaled".
        fit_intercept: whether models have intercepts.
    """

    lambdas: Floats
    penalty: str = "sum"
    fit_intercept: bool = True

    @classmethod
    def checked(cls, lambdas: Sequence[float], penalty: str, fit_intercept: bool = True) -> Grid:
        """Return the grid of parameters as a user gives them.

        Raises:
            ValueError: one of them is unusable.
        """
        values = np.asarray(lambdas, np.float64)
        if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"lambdas={lambdas!r}: a list of numbers that are finite and not negative is needed")
        if penalty not in PENALTIES:
            raise ValueError(f"penalty={penalty!r} is none of {', '.join(PENALTIES)}")
        return cls(values, penalty, fit_intercept)

    @property
    def in_units(self) -> list[float]:
        """λ for rows divided by 255, which paths are for."""
        unit = 1.0 if self.penalty == "scaled" else INTENSITY**2
        return [float(value) / unit for value in self.lambdas]

    def system(self, moments: RowMoments) -> RowMoments | ThroughOrigin:
        """Return moments as a model with or without an intercept needs them."""
        return moments if self.fit_intercept else ThroughOrigin(moments)

    def path(self, moments: RowMoments) -> RidgePath:
        """Fit moments at each λ."""
        return ridge_path(self.system(moments), self.in_units, self.penalty)

    def best(self, everything: RowMoments, scores: Floats, shift: Floats | None) -> Solution:
        """Fit the moments of all rows at the λ of the highest score, the largest of equals."""
        best = max(range(len(self.lambdas)), key=lambda i: (scores[i], self.lambdas[i]))
        path = ridge_fit(self.system(everything), self.in_units[best], self.penalty)
        return Solution(path, shift, float(self.lambdas[best]), scores)

    def chosen_by_moments(self, moments: FoldedMoments, shift: Floats | None) -> Solution:
        """Choose λ by the squared errors of folds, which their moments tell, and fit all rows."""
        everything = total(moments)
        scores = np.zeros(len(self.lambdas))
        if len(self.lambdas) > 1 and len(moments) > 1:
            for own in moments.values():
                scores += scores_of_moments(self.path(everything - own), own)
        return self.best(everything, scores / everything.n, shift)


@dataclass(frozen=True)
class Solution:
    """A fit to moments, at the chosen λ.

    Attributes:
        path: of length one, for rows minus the shift, divided by 255.
        shift: what was subtracted from rows, float64 (d,); None for nothing.
        lambda_: the chosen λ.
        scores: the mean score at each λ, float64 (n_lambdas,).
    """

    path: RidgePath
    shift: Floats | None
    lambda_: float
    scores: Floats

    @cached_property
    def weights(self) -> Floats:
        """Weights for rows as they are, float64 (d, n_classes)."""
        weights: Floats = self.path.weights[0] / INTENSITY
        return weights

    @cached_property
    def intercept(self) -> Floats:
        """Intercepts for rows as they are, float64 (n_classes,)."""
        intercept: Floats = self.path.intercepts[0]
        return intercept if self.shift is None else intercept - self.shift @ self.weights

    def scores_of(self, x: Rows, exactly: bool) -> Floats:
        """Return scores of rows (n, d), float64 (n, n_classes).

        Args:
            x: the rows.
            exactly: whether they are bytes that were summed exactly: a row then has the same scores in any batch.
        """
        if exactly:
            return self.path.scores(x)[:, 0]
        scores: Floats = x.astype(np.float64) @ self.weights + self.intercept
        return scores
