"""Moments of rows of numbers, as in a scikit-learn pipeline: exact for bytes, in float64 for others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats, Folds, Indices, Labels
from common.ridge.gram import GramProduct, best_product
from common.ridge.moments import Moments, MomentsSum
from common.ridge.penalty import CentredSums

BATCH_BYTES = 32 << 20
"""The size of the float64 rows that are summed at once."""

Rows = NDArray[Any]
"""Rows of numbers (n, d) of any type, in memory or mapped from a file."""


class RowMoments(CentredSums, Protocol):
    """Sums over rows x with one-vs-all targets y, which can be added and subtracted."""

    @property
    def gram(self) -> Floats:
        """XᵀX, float64 (d, d)."""
        ...

    @property
    def cross(self) -> Floats:
        """XᵀY, float64 (d, n_classes)."""
        ...

    def __add__(self, other: Self) -> Self: ...

    def __sub__(self, other: Self) -> Self: ...


@dataclass(frozen=True)
class WeightedMoments:
    """Sums over weighted rows of numbers, right up to rounding; see RowMoments."""

    n: float
    sum_x: Floats
    sum_y: Floats
    gram: Floats
    cross: Floats

    @classmethod
    def of(cls, z: Floats, labels: Labels, n_classes: int, weights: Floats | None) -> WeightedMoments:
        """Sum rows, float64 (n, d); labels int64 (n,); weights float64 (n,), or None if all are 1."""
        one_hot = np.zeros((len(z), n_classes))
        one_hot[np.arange(len(z)), labels] = 1 if weights is None else weights
        weighted = z if weights is None else z * weights[:, None]
        per_class = one_hot.sum(axis=0)
        n, sum_x = float(per_class.sum()), weighted.sum(axis=0)
        if weights is None:
            gram = z.T @ z  # NumPy passes a matrix times its own transpose to syrk, which does half the work
        else:
            root = z * np.sqrt(weights)[:, None]
            gram = root.T @ root
        return cls(n, sum_x, 2 * per_class - n, gram, 2 * (z.T @ one_hot) - sum_x[:, None])

    def __add__(self, other: WeightedMoments) -> WeightedMoments:
        return WeightedMoments(*(a + b for a, b in zip(self._parts(), other._parts(), strict=True)))

    def __sub__(self, other: WeightedMoments) -> WeightedMoments:
        return WeightedMoments(*(a - b for a, b in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> tuple[Any, ...]:
        return self.n, self.sum_x, self.sum_y, self.gram, self.cross

    def centred(self) -> tuple[Floats, Floats]:
        """Return XᵀWX and XᵀWY of rows and targets whose means have been subtracted."""
        mean = self.sum_x / self.n
        return self.gram - np.outer(self.sum_x, mean), self.cross - np.outer(mean, self.sum_y)


@dataclass(frozen=True)
class ThroughOrigin:
    """Moments as a model without an intercept needs them: nothing is centred."""

    moments: RowMoments

    @property
    def n(self) -> float:
        """The number of rows, or the sum of their weights."""
        return self.moments.n

    @property
    def sum_x(self) -> Floats:
        """Zeros, so that the intercept is 0."""
        return np.zeros_like(self.moments.sum_x)

    @property
    def sum_y(self) -> Floats:
        """Zeros, so that the intercept is 0."""
        return np.zeros_like(self.moments.sum_y)

    def centred(self) -> tuple[Floats, Floats]:
        """Return XᵀX and XᵀY as they are."""
        return self.moments.gram.copy(), self.moments.cross.copy()


FoldedMoments = dict[int, Any]
"""RowMoments per fold that rows validate, all of one type."""


class RowSums(Protocol):
    """Sums rows, fold by fold."""

    @property
    def shift(self) -> Floats | None:
        """The row that is subtracted from each before it is summed, float64 (d,); None for nothing."""
        ...

    def of(self, x: Rows, labels: Labels, folds: Folds, weights: Floats | None) -> FoldedMoments:
        """Return the moments of rows by fold."""
        ...


class ExactSums:
    """Sums rows of bytes exactly, whatever their order and grouping.

    Args:
        d: the number of columns.
        n_classes: the number of classes.
    """

    shift = None

    def __init__(self, d: int, n_classes: int) -> None:
        self._d, self._n_classes = d, n_classes

    def of(self, x: Rows, labels: Labels, folds: Folds, weights: Floats | None) -> FoldedMoments:
        """Return the moments of rows, uint8 (n, d), by fold.

        Raises:
            ValueError: rows have weights, which are no whole numbers.
        """
        if weights is not None:
            raise ValueError("exact sums have no weights")
        found: dict[int, Moments] = {}
        product: GramProduct | None = None
        for fold in np.unique(folds):
            product = best_product(self._d) if product is None else product
            sums = MomentsSum(self._d, self._n_classes, product)
            sums.add(x, labels, np.flatnonzero(folds == fold))
            found[int(fold)] = sums.result()
        return found


class FloatSums:
    """Sums rows of any numbers in float64, a batch at a time.

    Args:
        shift: subtracted from each row, float64 (d,), so that sums of numbers far from 0 keep their digits; None
            for nothing.
        n_classes: the number of classes.
    """

    def __init__(self, shift: Floats | None, n_classes: int) -> None:
        self.shift, self._n_classes = shift, n_classes

    def of(self, x: Rows, labels: Labels, folds: Folds, weights: Floats | None) -> FoldedMoments:
        """Return the moments of rows (n, d) by fold."""
        found: dict[int, WeightedMoments] = {}
        for fold in np.unique(folds):
            members = np.flatnonzero(folds == fold)
            for rows, z in batches(x, members, self.shift):
                own = None if weights is None else weights[rows]
                moments = WeightedMoments.of(z, labels[rows], self._n_classes, own)
                found[int(fold)] = found[int(fold)] + moments if int(fold) in found else moments
        return found


def chunks(members: Indices, d: int) -> Iterator[Indices]:
    """Yield positions of rows of d columns, so many at a time that they take BATCH_BYTES as float64."""
    size = max(1, BATCH_BYTES // (8 * d))
    for start in range(0, len(members), size):
        yield members[start : start + size]


def batches(x: Rows, members: Indices, shift: Floats | None) -> Iterator[tuple[Indices, Floats]]:
    """Yield positions of rows, and these rows as float64 with a shift subtracted, a batch at a time."""
    for rows in chunks(members, x.shape[1]):
        z = x[rows].astype(np.float64)
        if shift is not None:
            z -= shift
        yield rows, z
