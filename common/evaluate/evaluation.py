"""The evaluation of a model on labelled images, which adds up over blocks in any order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Pixels
from common.data.images import Block
from common.evaluate.metrics import ClassCounts, Confusion

MOST_MISTAKES = 24

TOP = 5
"""An image is nearly right if its true class is among so many of the best."""


class Mistake(NamedTuple):
    """An image that was assigned to a wrong class.

    Attributes:
        margin: the score of the true class minus the highest score of the others; negative.
        name: the name of the image.
        truth: its true class.
        predicted: the class assigned to it.
        pixels: uint8 (height, width, channels).
    """

    margin: float
    name: str
    truth: int
    predicted: int
    pixels: Pixels


@dataclass(frozen=True)
class Evaluation:
    """The predictions of a model for labelled images, compared with the labels.

    Its size is bounded, whatever the number of images, and evaluations of disjoint images add up.

    Attributes:
        confusion: true and predicted classes.
        near: the number of images whose true class is among the TOP best.
        signs: counts per class of the one-vs-all decision "the score is positive".
        mistakes: the mistakes with the largest margins, worst first, at most MOST_MISTAKES.
    """

    confusion: Confusion
    near: int
    signs: ClassCounts
    mistakes: list[Mistake]

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(
            self.confusion + other.confusion,
            self.near + other.near,
            ClassCounts(*(a + b for a, b in zip(self.signs, other.signs, strict=True))),
            heapq.nsmallest(MOST_MISTAKES, self.mistakes + other.mistakes, key=lambda mistake: mistake[:2]),
        )


def judge(scored: Iterator[tuple[slice, NDArray[Any]]], images: Block, n_classes: int) -> Evaluation:
    """Compare scores with labels.

    Args:
        scored: yields positions of images, and their scores, floats (m, n_classes), which are overwritten.
        images: labelled images with names.
        n_classes: the number of classes.
    """
    if images.names is None:
        raise ValueError("images without names")
    truth, near = images.labels, 0
    predicted = np.empty(len(truth), np.int64)
    margin = np.empty(len(truth))
    correct, positive = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    for block, scores in scored:
        rows, true_class = np.arange(len(scores)), truth[block]
        predicted[block] = scores.argmax(axis=1)
        true_scores = scores[rows, true_class]
        positive += (scores > 0).sum(axis=0)
        correct += np.bincount(true_class[true_scores > 0], minlength=n_classes)
        near += int(((scores > true_scores[:, None]).sum(axis=1) < TOP).sum())
        scores[rows, true_class] = -np.inf
        margin[block] = true_scores - scores.max(axis=1)
    wrong = np.flatnonzero(predicted != truth)
    worst = wrong[np.argsort(margin[wrong], kind="stable")[:MOST_MISTAKES]]
    return Evaluation(
        Confusion.of(predicted, truth, n_classes),
        near,
        ClassCounts(correct, positive, np.bincount(truth, minlength=n_classes)),
        [
            # Copied, because a view would keep all pixels of the block in memory.
            Mistake(
                float(margin[i]), str(images.names[i]), int(truth[i]), int(predicted[i]), images.pixels[i].copy()
            )
            for i in worst
        ],
    )
