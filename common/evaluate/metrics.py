"""Agreement of predicted and true classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.arrays import Floats, Labels


class ClassCounts(NamedTuple):
    """Counts per class, int64 (n_classes,) each.

    Attributes:
        correct: images of the class that are predicted as it.
        predicted: images that are predicted as the class.
        true: images of the class.
    """

    correct: Labels
    predicted: Labels
    true: Labels

    @property
    def precision(self) -> Floats:
        """Correct / predicted, float64 (n_classes,); 0 for classes that are never predicted."""
        return np.divide(self.correct, np.maximum(self.predicted, 1), dtype=np.float64)

    @property
    def recall(self) -> Floats:
        """Correct / true, float64 (n_classes,); 0 for classes without images."""
        return np.divide(self.correct, np.maximum(self.true, 1), dtype=np.float64)

    @property
    def f1(self) -> Floats:
        """The harmonic mean of precision and recall: 2 correct / (predicted + true), or 0 if that is undefined."""
        f1: Floats = np.divide(2 * self.correct, np.maximum(self.predicted + self.true, 1), dtype=np.float64)
        return f1

    def macro_f1(self) -> float:
        """Return the mean F1 of the classes that occur among labels or predictions, as scikit-learn does."""
        seen = (self.predicted + self.true) > 0
        return float(self.f1[seen].mean()) if seen.any() else 0.0


MOST_DESCRIBED = 10_000
"""Pairs of classes that metrics.json may list."""


@dataclass(frozen=True)
class Confusion:
    """A sparse confusion matrix, so that many classes cost nothing.

    It adds up over disjoint images.

    Attributes:
        n_classes: the number of classes.
        pairs: int64 (m,), true class · n_classes + predicted class, each pair that occurs, ascending.
        counts: the number of images per pair, int64 (m,).
    """

    n_classes: int
    pairs: Labels
    counts: Labels

    @classmethod
    def of(cls, predicted: Labels, truth: Labels, n_classes: int) -> Confusion:
        """Count predicted and true classes, int64 (n,) each."""
        codes = truth * n_classes + predicted
        if n_classes**2 > len(codes):
            return cls(n_classes, *np.unique(codes, return_counts=True))
        counts = np.bincount(codes, minlength=n_classes**2)  # the same without sorting
        pairs = np.flatnonzero(counts)
        return cls(n_classes, pairs, counts[pairs])

    def __add__(self, other: Confusion) -> Confusion:
        pairs, where = np.unique(np.concatenate([self.pairs, other.pairs]), return_inverse=True)
        counts = np.zeros(len(pairs), np.int64)
        np.add.at(counts, where, np.concatenate([self.counts, other.counts]))
        return Confusion(self.n_classes, pairs, counts)

    @property
    def n(self) -> int:
        """The number of images counted."""
        return int(self.counts.sum())

    @property
    def truth(self) -> Labels:
        """The true class of each pair, int64 (m,)."""
        return self.pairs // self.n_classes

    @property
    def predicted(self) -> Labels:
        """The predicted class of each pair, int64 (m,)."""
        return self.pairs % self.n_classes

    @property
    def n_correct(self) -> int:
        """The number of images whose class was predicted correctly."""
        return int(self.counts[self.truth == self.predicted].sum())

    def accuracy(self) -> float:
        """Return the share of images whose class was predicted correctly."""
        return self.n_correct / self.n if self.n else 0.0

    def by_class(self) -> ClassCounts:
        """Return the counts per class."""
        hits = np.where(self.truth == self.predicted, self.counts, 0)
        total = [(self.truth, hits), (self.predicted, self.counts), (self.truth, self.counts)]
        # weights make bincount count in float64, which is exact below 2⁵³
        return ClassCounts(*(np.bincount(c, w, self.n_classes).astype(np.int64) for c, w in total))

    def described(self) -> list[list[int]] | None:
        """Return [true class, predicted class, images] for each pair that occurs; None if there are too many."""
        if len(self.pairs) > MOST_DESCRIBED:
            return None
        parts = (self.truth, self.predicted, self.counts)
        return [[int(t), int(p), int(n)] for t, p, n in zip(*parts, strict=True)]

    def most_confused(self, most: int) -> Labels:
        """Return at most `most` classes, the most often confused ones, int64, ascending."""
        if self.n_classes <= most:
            return np.arange(self.n_classes)
        by_class = self.by_class()
        mistaken = by_class.true + by_class.predicted - 2 * by_class.correct
        return np.sort(np.argsort(-mistaken, kind="stable")[:most])

    def matrix(self, classes: Labels) -> Labels:
        """Return the dense matrix of some classes (ascending), int64 (c, c): rows true, columns predicted."""
        among = np.isin(self.truth, classes) & np.isin(self.predicted, classes)
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        rows, columns = (np.searchsorted(classes, c[among]) for c in (self.truth, self.predicted))
        matrix[rows, columns] = self.counts[among]
        return matrix
