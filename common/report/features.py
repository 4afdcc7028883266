"""Words and pictures for a feature map in reports."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.arrays import Pixels
from common.features.chain import Chain
from common.features.feature_map import FeatureMap, Shape
from common.features.fourier import Fourier
from common.features.joined import Joined
from common.features.landmarks import Landmarks
from common.features.network import NetworkFeatures
from common.features.patches import SIDE, Patches
from common.features.pixels import RawPixels
from common.features.random_layer import RandomLayer
from common.features.stage import Stage

MOST_FILTERS = 32
"""The number of filters that are shown, at most."""

NO_FILTERS = np.empty((0, SIDE * SIDE), np.int8)


def in_words(features: FeatureMap, shape: Shape) -> list[str]:
    """Return a sentence for each step from images of this shape to features."""
    if isinstance(features, Chain):
        return [*in_words(features.first, shape), _stage_in_words(features.then)]
    if isinstance(features, Joined):
        first, *others = ("; of these, ".join(in_words(one, shape)) for one in features.maps)
        return [first, *(f"beside these, {words}" for words in others)]
    d = features.n_features(shape)
    if isinstance(features, Patches):
        mirrored = ", together with those of its mirror image" if features.mirror else ""
        return [
            f"{len(features.filters):,} filters of {SIDE}×{SIDE} pixels respond to an image{mirrored}; responses "
            f"of either sign are summed in {features.cells}×{features.cells} cells: {d:,} numbers"
        ]
    if isinstance(features, NetworkFeatures):
        height, width, _ = features.network.shape
        root = ", their square roots," if features.root else ""
        return [
            f"{d:,} numbers that {features.network.name} makes of an image of {height}×{width}{root} cut to 8 bits"
        ]
    if isinstance(features, RawPixels):
        return [f"the {d:,} values of the pixels"]
    return [f"{d:,} features of kind {features.describe()['kind']}"]


def _stage_in_words(stage: Stage) -> str:
    if isinstance(stage, Landmarks):
        return f"similarities to {stage.n_outputs:,} training images, by a Gaussian kernel of these"
    if isinstance(stage, Fourier):
        return f"{stage.n_outputs:,} cosines of random combinations of these"
    if isinstance(stage, RandomLayer):
        return f"{stage.n_outputs:,} random combinations of these, above their mean"
    return f"{stage.n_outputs:,} features of kind {stage.kind}"


def filters_of(features: FeatureMap) -> NDArray[np.int8]:
    """Return the filters of a map, or of the first that has some, int8 (n, SIDE·SIDE·channels); else none."""
    while isinstance(features, Chain):
        features = features.first
    if isinstance(features, Joined):
        return next((found for found in map(filters_of, features.maps) if len(found)), NO_FILTERS)
    return features.filters if isinstance(features, Patches) else NO_FILTERS


def filter_images(filters: NDArray[np.int8]) -> list[Pixels]:
    """Return the first MOST_FILTERS filters as images, uint8 (SIDE, SIDE, channels); grey is zero.

    Each has its own scale.
    """
    images = []
    for values in filters[:MOST_FILTERS].astype(np.float64):
        largest = max(1.0, float(np.abs(values).max()))
        image = np.rint(127.5 + 127.5 / largest * values).astype(np.uint8)
        images.append(image.reshape(-1, SIDE, SIDE).transpose(1, 2, 0))
    return images
