"""Classes and folds of rows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Folds, Labels
from common.estimators.row_sums import FoldedMoments, Rows


def classes_of(y: NDArray[Any]) -> tuple[NDArray[Any], Labels]:
    """Return the labels that there are, in order, and the position of each row's among them, int64 (n,).

    Raises:
        ValueError: there is one only.
    """
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes[0]!r}; a classifier needs two")
    return classes, labels.astype(np.int64)


def total(moments: FoldedMoments) -> Any:
    """Return the moments of all rows."""
    first, *others = moments.values()
    return sum(others, start=first)


def partition(splits: Sequence[tuple[NDArray[Any], NDArray[Any]]], n: int) -> Folds | None:
    """Return the fold that each row validates; None unless each row validates once and trains all other folds."""
    folds = np.full(n, -1, np.int16)
    for fold, (train, test) in enumerate(splits):
        if (folds[test] >= 0).any() or len(train) + len(test) != n or len(splits) > np.iinfo(np.int16).max:
            return None
        folds[test] = fold
    return folds if (folds >= 0).all() else None


def folds_of(x: Rows, k: int) -> Folds:
    """Return folds that follow from the contents of rows, int16 (n,), whatever batch they come in."""
    rows = np.ascontiguousarray(x)
    return np.array([zlib.crc32(row) % k for row in rows], np.int16)
