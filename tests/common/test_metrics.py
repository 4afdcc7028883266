from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score, precision_score, recall_score

from common.decode import PixelFormat
from common.evaluation import concatenate, evaluate, worst_mistakes
from common.metrics import ClassCounts, accuracy, confusion_matrix
from common.ridge.model import RidgeModel

RNG = np.random.default_rng(1)
TRUTH = RNG.integers(0, 5, 400)
PREDICTED = np.where(RNG.random(400) < 0.6, TRUTH, RNG.integers(0, 4, 400))  # nothing is predicted as 5


def test_metrics_agree_with_scikit_learn() -> None:
    counts = ClassCounts.of(PREDICTED, TRUTH, 6)
    labels = list(range(6))
    assert accuracy(PREDICTED, TRUTH) == np.mean(PREDICTED == TRUTH)
    assert counts.macro_f1() == pytest.approx(f1_score(TRUTH, PREDICTED, average="macro"), abs=1e-15)
    expected = precision_score(TRUTH, PREDICTED, labels=labels, average=None, zero_division=0)
    np.testing.assert_allclose(counts.precision, expected)
    expected = recall_score(TRUTH, PREDICTED, labels=labels, average=None, zero_division=0)
    np.testing.assert_allclose(counts.recall, expected)
    assert np.array_equal(
        confusion_matrix(PREDICTED, TRUTH, 6), sklearn_confusion(TRUTH, PREDICTED, labels=labels)
    )


def a_model() -> RidgeModel:
    names = tuple("abcde")
    return RidgeModel(RNG.normal(size=(12, 5)), RNG.normal(size=5), names, (4, 3, 1), PixelFormat(), 1.0, "sum")


def test_sign_decisions_agree_with_scikit_learn_class_by_class() -> None:
    model, pixels = a_model(), RNG.integers(0, 256, (400, 4, 3, 1), np.uint8)
    signs = evaluate(model, pixels, TRUTH, np.arange(400)).signs
    scores = pixels.reshape(400, 12) / 255 @ model.weights + model.intercept
    for c in range(5):
        true, positive = c == TRUTH, scores[:, c] > 0
        assert signs.precision[c] == pytest.approx(precision_score(true, positive, zero_division=0))
        assert signs.recall[c] == pytest.approx(recall_score(true, positive))


def test_an_evaluation_in_shuffled_parts_is_the_evaluation_of_the_whole() -> None:
    model, pixels = a_model(), RNG.integers(0, 256, (400, 4, 3, 1), np.uint8)
    whole = evaluate(model, pixels, TRUTH, np.arange(400))
    parts = np.array_split(RNG.permutation(400), 7)
    again = concatenate([evaluate(model, pixels[part], TRUTH[part], part) for part in parts])
    for field in ("positions", "truth", "predicted"):
        assert np.array_equal(getattr(whole, field), getattr(again, field))
    np.testing.assert_allclose(whole.margin, again.margin, atol=1e-12)
    assert all(np.array_equal(a, b) for a, b in zip(whole.signs, again.signs, strict=True))


def test_the_worst_mistakes_are_mistakes_worst_first() -> None:
    model, pixels = a_model(), RNG.integers(0, 256, (400, 4, 3, 1), np.uint8)
    tested = evaluate(model, pixels, TRUTH, np.arange(400))
    rows = worst_mistakes(tested, 10)
    assert len(rows) == 10
    assert (tested.predicted[rows] != tested.truth[rows]).all()
    assert (np.diff(tested.margin[rows]) >= 0).all()
    assert tested.margin[rows[0]] == tested.margin.min() < 0
