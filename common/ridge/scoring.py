"""Ridge models and paths scored on labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from common.arrays import Labels
from common.data.images import Block
from common.errors import UnusableImagesError
from common.evaluate.evaluation import Evaluation, judge
from common.features.feature_map import BATCH_ROWS, FeatureMap
from common.ridge.kept import features_of
from common.ridge.model import RidgeModel
from common.ridge.path import RidgePath


def evaluate(model: RidgeModel, images: Block) -> Evaluation:
    """Score images, which must have names, and compare with their labels.

    Raises:
        InputError: the features of an image cannot be computed.
    """
    try:
        return judge(model.score_blocks(images.pixels), images, len(model.class_names))
    except UnusableImagesError as error:
        raise error.named(images.names or ()) from None


def validate(paths: Mapping[int, RidgePath], features: FeatureMap, blocks: Iterable[Block]) -> tuple[int, Labels]:
    """Score each held-out image by the path of the fold that it validates.

    Args:
        paths: one path per fold, all of one length.
        features: computes the features that the paths were fitted to.
        blocks: images; those of folds without a path do not count.

    Returns:
        the number of images scored, and how many of them each λ classifies correctly, int64 (n_lambdas,).
    """
    scored, correct = 0, np.zeros(len(next(iter(paths.values())).intercepts), np.int64)
    for block in blocks:
        for fold, path in paths.items():
            held_out = np.flatnonzero(block.folds == fold)
            scored += len(held_out)
            for start in range(0, len(held_out), BATCH_ROWS):
                rows = held_out[start : start + BATCH_ROWS]
                correct += path.count_correct(features_of(block, rows, features), block.labels[rows])
    return scored, correct
