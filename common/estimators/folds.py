"""Classes and folds of rows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Folds, Labels
from common.estimators.row_sums import FoldedMoments, Rows

ROUNDING = 1e-9
"""The share of a sum of weights that is taken for a rounding error."""


def classes_of(y: NDArray[Any]) -> tuple[NDArray[Any], Labels]:
    """Return the labels that there are, in order, and the position of each row's among them, int64 (n,).

    Raises:
        ValueError: there is one only.
    """
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes[0]}; a classifier needs two")
    return classes, labels.astype(np.int64)


def total(moments: FoldedMoments) -> Any:
    """Return the moments of all rows."""
    first, *others = moments.values()
    return sum(others, start=first)


def added(moments: FoldedMoments, more: FoldedMoments) -> FoldedMoments:
    """Add moments fold by fold."""
    return {**moments, **{fold: moments[fold] + own if fold in moments else own for fold, own in more.items()}}


def taken_away(moments: FoldedMoments, less: FoldedMoments) -> FoldedMoments:
    """Subtract moments fold by fold, leaving out folds without a row.

    Raises:
        ValueError: a fold has fewer rows of a class than are taken away.
    """
    left = dict(moments)
    for fold, own in less.items():
        rounding = ROUNDING * own.n
        rest = left.pop(fold) - own if fold in left else None
        if rest is None or ((rest.n + rest.sum_y) / 2 < -rounding).any():
            raise ValueError("rows that were not added, or not with these weights, cannot be taken away")
        if rest.n > rounding:
            left[fold] = rest
    return left


def partition(splits: Sequence[tuple[NDArray[Any], NDArray[Any]]], n: int) -> Folds | None:
    """Return the fold that each row validates; None unless each row validates once and trains all other folds."""
    folds = np.full(n, -1, np.int16)
    for fold, (train, test) in enumerate(splits):
        times = np.bincount(np.concatenate([train, test]), minlength=n)
        if (folds[test] >= 0).any() or (times != 1).any() or len(splits) > np.iinfo(np.int16).max:
            return None
        folds[test] = fold
    return folds if (folds >= 0).all() else None


def folds_of(x: Rows, k: int) -> Folds:
    """Return folds that follow from the contents of rows, int16 (n,), whatever batch they come in."""
    rows = np.ascontiguousarray(x)
    return np.array([zlib.crc32(row) % k for row in rows], np.int16)
