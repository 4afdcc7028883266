"""Scoring a model on labelled images, block by block: what it found adds up, whatever the order."""

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
"""How many of the best classes may hold the true one, for an image to count as nearly right."""


class Mistake(NamedTuple):
    """An image that was taken for another class.

    Attributes:
        margin: the true class's score minus the highest of the others, negative.
        name: of the image.
        truth: its class.
        predicted: the class it was taken for.
        pixels: uint8 (height, width, channels).
    """

    margin: float
    name: str
    truth: int
    predicted: int
    pixels: Pixels


@dataclass(frozen=True)
class Evaluation:
    """What a model said of labelled images.

    It is as small for any number of images as for a few thousand, and adds up over disjoint images.

    Attributes:
        confusion: true and predicted classes.
        near: images whose true class is among the TOP best.
        signs: per class, the one-vs-all decision "the score is positive".
        mistakes: those whose true class lost by most, worst first, at most MOST_MISTAKES.
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
    """Compare scores with the truth.

    Args:
        scored: which of the images, and their scores: floats (m, n_classes), which this may change.
        images: with names.
        n_classes: how many there are.
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
            # copied, because a view would keep all pixels of the block
            Mistake(
                float(margin[i]), str(images.names[i]), int(truth[i]), int(predicted[i]), images.pixels[i].copy()
            )
            for i in worst
        ],
    )
