"""How well predicted classes agree with the true ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.imageset import Labels

Floats = NDArray[np.float64]


def accuracy(predicted: Labels, truth: Labels) -> float:
    """The share of images whose class is predicted; predicted and truth are int64 (n,)."""
    return float(np.mean(predicted == truth)) if len(truth) else 0.0


class ClassCounts(NamedTuple):
    """Per class, int64 (n_classes,) each.

    Attributes:
        correct: images of the class that are predicted as it.
        predicted: images that are predicted as the class.
        true: images of the class.
    """

    correct: Labels
    predicted: Labels
    true: Labels

    @classmethod
    def of(cls, predicted: Labels, truth: Labels, n_classes: int) -> ClassCounts:
        """Count; needs memory for the classes, not for their square."""
        hits = truth[predicted == truth]
        return cls(*(np.bincount(a, minlength=n_classes) for a in (hits, predicted, truth)))

    @property
    def precision(self) -> Floats:
        """Correct / predicted, 0 where nothing is predicted."""
        return np.divide(self.correct, np.maximum(self.predicted, 1), dtype=np.float64)

    @property
    def recall(self) -> Floats:
        """Correct / true, 0 where there is no image."""
        return np.divide(self.correct, np.maximum(self.true, 1), dtype=np.float64)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall: 2 correct / (predicted + true), 0 where undefined."""
        f1: Floats = np.divide(2 * self.correct, np.maximum(self.predicted + self.true, 1), dtype=np.float64)
        return f1

    def macro_f1(self) -> float:
        """F1 averaged over the classes that are true or predicted at all, as scikit-learn does."""
        seen = (self.predicted + self.true) > 0
        return float(self.f1[seen].mean()) if seen.any() else 0.0


def confusion_matrix(predicted: Labels, truth: Labels, n_classes: int) -> Labels:
    """Counts, int64 (n_classes, n_classes): row is the true class, column the predicted one."""
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
