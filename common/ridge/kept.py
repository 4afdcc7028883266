"""Features of the images that validate, kept from the moments to the validation so that they are computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from common.arrays import Features, Indices
from common.data.images import Block
from common.data.splits import ALWAYS_TRAINING
from common.errors import UnusableImagesError
from common.features.augmentation import Augmentation
from common.features.feature_map import BATCH_ROWS, FeatureMap


@contextmanager
def _naming(block: Block, rows: slice | Indices) -> Iterator[None]:
    """Name the image if features of some rows of a block are computed here and cannot be computed of one.

    Raises:
        InputError: the features of an image, of a block with names, cannot be computed.
    """
    try:
        yield
    except UnusableImagesError as error:
        if block.names is None:
            raise
        raise error.named([block.names[row] for row in np.arange(len(block.labels))[rows]]) from None


def with_features(block: Block, features: FeatureMap) -> Block:
    """Return a block with the features of its images that validate.

    Raises:
        InputError: the features of an image cannot be computed.
    """
    held_out = np.flatnonzero(block.folds != ALWAYS_TRAINING)
    found = np.empty((len(held_out), features.n_features(block.pixels.shape[1:])), np.uint8)
    for start in range(0, len(held_out), BATCH_ROWS):
        rows = held_out[start : start + BATCH_ROWS]
        with _naming(block, rows):
            found[start : start + len(rows)] = features(block.pixels[rows])
    return block._replace(features=found)


def features_of(block: Block, rows: slice | Indices, features: FeatureMap) -> Features:
    """Return the features of some images of a block, uint8 (n, d), computing those that it does not have.

    Raises:
        InputError: the features of an image cannot be computed.
    """
    if block.features is None:
        with _naming(block, rows):
            return features(block.pixels[rows])
    kept, held_out = block.features, block.folds != ALWAYS_TRAINING
    places, has = (np.cumsum(held_out) - 1)[rows], held_out[rows]
    found: Features = np.empty((len(has), kept.shape[1]), np.uint8)
    found[has] = kept[places[has]]
    if has.all():
        return found
    others = np.arange(len(block.labels))[rows][~has]
    with _naming(block, others):
        found[~has] = features(block.pixels[others])
    return found


def batches_of_features(
    block: Block, features: FeatureMap, augmentation: Augmentation
) -> Iterator[tuple[Features, slice]]:
    """Yield the features of each variant of images, uint8 (n, d), and the positions of these images.

    Args:
        block: the images.
        features: computes the features.
        augmentation: makes the variants.

    Raises:
        InputError: the features of an image cannot be computed.
    """
    for start in range(0, len(block.labels), BATCH_ROWS):
        rows = slice(start, start + BATCH_ROWS)
        for i, variant in enumerate(augmentation.variants(block.pixels[rows])):
            if i:
                with _naming(block, rows):
                    x = features(variant)
            else:  # the image itself, whose features may have been kept
                x = features_of(block, rows, features)
            yield x, rows
