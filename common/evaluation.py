"""Scoring a model on labelled images, in pieces that can be put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.catalogue import Indices
from common.imageset import Labels, Pixels
from common.metrics import ClassCounts, Floats
from common.ridge.model import RidgeModel


class Evaluation(NamedTuple):
    """What a model said of n labelled images.

    Attributes:
        positions: int64 (n,), the images' positions in their catalogue.
        truth: int64 (n,).
        predicted: int64 (n,), the class of the highest score.
        margin: float64 (n,), the true class's score minus the highest of the others: negative for a mistake.
        signs: per class, the one-vs-all decision "the score is positive".
    """

    positions: Indices
    truth: Labels
    predicted: Labels
    margin: Floats
    signs: ClassCounts


def evaluate(model: RidgeModel, pixels: Pixels, truth: Labels, positions: Indices) -> Evaluation:
    """Score uint8 (n, height, width, channels) whose classes are truth, int64 (n,)."""
    n_classes = len(model.class_names)
    predicted = np.empty(len(pixels), np.int64)
    margin = np.empty(len(pixels))
    correct, positive = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    for block, scores in model.score_blocks(pixels):
        rows, true_class = np.arange(len(scores)), truth[block]
        predicted[block] = scores.argmax(axis=1)
        true_scores = scores[rows, true_class]
        positive += (scores > 0).sum(axis=0)
        correct += np.bincount(true_class[true_scores > 0], minlength=n_classes)
        scores[rows, true_class] = -np.inf
        margin[block] = true_scores - scores.max(axis=1)
    signs = ClassCounts(correct, positive, np.bincount(truth, minlength=n_classes))
    return Evaluation(positions, truth, predicted, margin, signs)


def concatenate(parts: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of all images, in catalogue order, from evaluations of disjoint parts."""
    order = np.argsort(np.concatenate([part.positions for part in parts]), kind="stable")
    positions, truth, predicted, margin = (
        np.concatenate([part[field] for part in parts])[order] for field in range(4)
    )
    signs = ClassCounts(*(np.sum([part.signs[field] for part in parts], axis=0) for field in range(3)))
    return Evaluation(positions, truth, predicted, margin, signs)


def worst_mistakes(evaluation: Evaluation, most: int) -> Indices:
    """Rows of the evaluation whose true class lost by most, worst first, at most `most`."""
    rows: Indices = np.argsort(evaluation.margin, kind="stable")[:most]
    wrong: Indices = rows[evaluation.predicted[rows] != evaluation.truth[rows]]
    return wrong
