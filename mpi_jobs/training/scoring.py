"""Scores of a network on labelled images, which are dealt out to all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from common.data.catalogue import Skipped
from common.data.images import Block
from common.evaluate.evaluation import Evaluation, judge
from common.nets.classifier import Classifier
from mpi_jobs.engine.world import World
from mpi_jobs.training.loading import Batch, Loader, Share


class Score(NamedTuple):
    """The score of a network on labelled images.

    Attributes:
        loss: the mean cross-entropy.
        evaluation: everything else.
    """

    loss: float
    evaluation: Evaluation


class _Sums(NamedTuple):
    """Sums over some of the images.

    Attributes:
        loss: the sum of the cross-entropy.
        evaluation: the evaluation; None for no images.
    """

    loss: float
    evaluation: Evaluation | None

    def combine(self, other: _Sums) -> _Sums:
        """Return the sums over the images of both."""
        a, b = self.evaluation, other.evaluation
        return _Sums(self.loss + other.loss, a + b if a is not None and b is not None else a or b)


def evaluate(
    world: World, classifier: Classifier, loader: Loader, shares: Sequence[Share], advance: Callable[[int], object]
) -> tuple[Score | None, list[Skipped]]:
    """Score images on all ranks, all of which call this.

    Args:
        world: the ranks.
        classifier: the same network on all ranks.
        loader: reads the images.
        shares: this rank's images.
        advance: called with the number of images of each batch that this rank has scored.

    Returns:
        the score of all images, on rank 0 and if there were any; and the skipped images, on all ranks.
    """
    sums = _Sums(0.0, None)
    skipped: list[Skipped] = []
    for batch in loader.batches(shares):
        skipped += batch.skipped
        if len(batch.labels):
            sums = sums.combine(_evaluate_batch(classifier, loader, batch))
        advance(len(batch.labels))
    everyone = world.all_gather(skipped)
    total = world.reduce(sums, _Sums.combine)
    all_skipped = [image for images in everyone for image in images]
    if total is None or total.evaluation is None:
        return None, all_skipped
    return Score(total.loss / total.evaluation.confusion.n, total.evaluation), all_skipped


def _evaluate_batch(classifier: Classifier, loader: Loader, batch: Batch) -> _Sums:
    """Score the images of one batch."""
    loss = 0.0

    def scores() -> Iterator[tuple[slice, NDArray[np.float32]]]:
        nonlocal loss
        for block, logits in classifier.score_blocks(batch.pixels):
            labels = torch.from_numpy(batch.labels[block])
            loss += float(cross_entropy(torch.from_numpy(logits), labels, reduction="sum"))
            yield block, logits

    folds = np.zeros(len(batch.labels), np.int16)
    names = [loader.name(item) for item in batch.items]
    images = Block(batch.pixels, batch.labels, folds, names, [])
    evaluation = judge(scores(), images, len(classifier.class_names))
    return _Sums(loss, evaluation)
