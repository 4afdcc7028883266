"""Ridge models and paths scored on labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from common.arrays import Labels
from common.data.images import Block
from common.evaluate.evaluation import Evaluation, judge
from common.ridge.model import RidgeModel
from common.ridge.path import RidgePath


def evaluate(model: RidgeModel, images: Block) -> Evaluation:
    """Score images that have names."""
    return judge(model.score_blocks(images.pixels), images, len(model.class_names))


def validate(paths: Mapping[int, RidgePath], blocks: Iterable[Block]) -> tuple[int, Labels]:
    """Score each image that validates by its own fold's path.

    Args:
        paths: of each fold, all of one length.
        blocks: images, of which those of other folds do not count.

    Returns:
        how many images were scored, and how many of them each λ classifies correctly, int64 (n_lambdas,).
    """
    scored, correct = 0, np.zeros(len(next(iter(paths.values())).intercepts), np.int64)
    for block in blocks:
        for fold, path in paths.items():
            rows = np.flatnonzero(block.folds == fold)
            scored += len(rows)
            correct += path.count_correct(block.pixels[rows], block.labels[rows])
    return scored, correct
