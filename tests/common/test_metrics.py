from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score, precision_score, recall_score

from common.data.decode import PixelFormat
from common.data.images import Block
from common.evaluate.evaluation import MOST_MISTAKES
from common.evaluate.metrics import Confusion
from common.ridge.model import RidgeModel
from common.ridge.scoring import evaluate

RNG = np.random.default_rng(1)
TRUTH = RNG.integers(0, 5, 400)
PREDICTED = np.where(RNG.random(400) < 0.6, TRUTH, RNG.integers(0, 4, 400))  # nothing is predicted as 5


def test_metrics_agree_with_scikit_learn() -> None:
    confusion = Confusion.of(PREDICTED, TRUTH, 6)
    counts = confusion.by_class()
    labels = list(range(6))
    assert confusion.n == 400
    assert confusion.accuracy() == np.mean(PREDICTED == TRUTH)
    assert counts.macro_f1() == pytest.approx(f1_score(TRUTH, PREDICTED, average="macro"), abs=1e-15)
    expected = precision_score(TRUTH, PREDICTED, labels=labels, average=None, zero_division=0)
    np.testing.assert_allclose(counts.precision, expected)
    expected = recall_score(TRUTH, PREDICTED, labels=labels, average=None, zero_division=0)
    np.testing.assert_allclose(counts.recall, expected)
    matrix = sklearn_confusion(TRUTH, PREDICTED, labels=labels)
    assert np.array_equal(confusion.matrix(np.arange(6)), matrix)
    assert np.array_equal(confusion.matrix(np.array([1, 4])), matrix[np.ix_([1, 4], [1, 4])])


def test_the_classes_most_often_confused() -> None:
    matrix = np.array([[50, 0, 0, 0], [0, 20, 9, 0], [0, 3, 30, 0], [1, 0, 0, 10]])
    truth, predicted = (np.repeat(c, matrix.ravel()) for c in np.divmod(np.arange(16), 4))
    confusion = Confusion.of(predicted, truth, 4)
    assert confusion.most_confused(4).tolist() == [0, 1, 2, 3]
    assert confusion.most_confused(2).tolist() == [1, 2]


def a_model() -> RidgeModel:
    names = tuple("abcde")
    return RidgeModel(RNG.normal(size=(12, 5)), RNG.normal(size=5), names, (4, 3, 1), PixelFormat(), 1.0, "sum")


def some_images() -> Block:
    pixels = RNG.integers(0, 256, (400, 4, 3, 1), np.uint8)
    return Block(pixels, TRUTH, np.full(400, -1, np.int16), [f"{i:03d}" for i in range(400)], [])


def rows(images: Block, which: np.ndarray) -> Block:
    assert images.names is not None
    names = [images.names[i] for i in which]
    return images._replace(
        pixels=images.pixels[which], labels=images.labels[which], folds=images.folds[which], names=names
    )


def test_sign_decisions_agree_with_scikit_learn_class_by_class() -> None:
    model, images = a_model(), some_images()
    signs = evaluate(model, images).signs
    scores = images.pixels.reshape(400, 12) / 255 @ model.weights + model.intercept
    for c in range(5):
        true, positive = c == TRUTH, scores[:, c] > 0
        assert signs.precision[c] == pytest.approx(precision_score(true, positive, zero_division=0))
        assert signs.recall[c] == pytest.approx(recall_score(true, positive))


def test_evaluations_of_shuffled_parts_add_up_to_that_of_the_whole() -> None:
    model, images = a_model(), some_images()
    whole = evaluate(model, images)
    parts = np.array_split(RNG.permutation(400), 7)
    again = reduce(add, [evaluate(model, rows(images, part)) for part in parts])
    assert np.array_equal(whole.confusion.pairs, again.confusion.pairs)
    assert np.array_equal(whole.confusion.counts, again.confusion.counts)
    assert all(np.array_equal(a, b) for a, b in zip(whole.signs, again.signs, strict=True))
    assert [mistake.name for mistake in whole.mistakes] == [mistake.name for mistake in again.mistakes]


def test_the_worst_mistakes_are_mistakes_worst_first() -> None:
    model, images = a_model(), some_images()
    scores = images.pixels.reshape(400, 12) / 255 @ model.weights + model.intercept
    true_score = scores[np.arange(400), TRUTH]
    scores[np.arange(400), TRUTH] = -np.inf
    margin = true_score - scores.max(axis=1)
    tested = evaluate(model, images)
    assert len(tested.mistakes) == MOST_MISTAKES < (margin < 0).sum()
    for mistake, i in zip(tested.mistakes, np.argsort(margin), strict=False):
        assert mistake.name == f"{i:03d}"
        assert mistake.margin == pytest.approx(margin[i])
        assert (mistake.truth, mistake.predicted) == (TRUTH[i], scores[i].argmax())
        assert np.array_equal(mistake.pixels, images.pixels[i])
