"""Features of images that validate, kept from the moments to the validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from common.arrays import Features, Pixels
from common.data.images import Block
from common.features.augmentation import AS_IT_IS, Augmentation
from common.features.feature_map import FeatureMap
from common.features.pixels import PIXELS
from common.ridge.fit import Problem
from common.ridge.kept import features_of, with_features
from common.ridge.moments import FoldSums, fingerprint
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import serial
from tests.support.block_means import BlockMeans
from tests.support.moments import RNG


class Counting(BlockMeans):
    """A map that counts the images whose features it computes."""

    n = 0

    def __call__(self, pixels: Pixels) -> Features:
        Counting.n += len(pixels)
        return super().__call__(pixels)


def block(n: int = 50) -> Block:
    pixels = RNG.integers(0, 256, (n, 6, 4, 1), np.uint8)
    return Block(pixels, RNG.integers(0, 3, n), RNG.integers(-1, 2, n).astype(np.int16), None, [])


def problem(features: FeatureMap, *flags: str) -> Problem:
    arguments = ridge_parser("").parse_arguments(["--quiet", "--lambdas", "1,10", *flags])
    return replace(RidgeRun.open("test", arguments).problem, features=features)


@pytest.mark.parametrize("rows", [slice(0, 50), slice(13, 30), [0], [3, 49, 20], []])
def test_kept_features_are_those_of_the_images(rows: slice | Sequence[int]) -> None:
    images, features = block(), BlockMeans()
    chosen = rows if isinstance(rows, slice) else np.array(rows, int)
    found = features_of(with_features(images, features), chosen, features)
    assert np.array_equal(found, features(images.pixels[chosen]))


@pytest.mark.parametrize("augmentation", [AS_IT_IS, Augmentation(shift=True, flip=True)])
def test_moments_are_the_same_bits(augmentation: Augmentation) -> None:
    images, found = block(), []
    for own in (images, with_features(images, BlockMeans())):
        sums = FoldSums(3, BlockMeans(), augmentation)
        sums.add_block(own)
        found.append(fingerprint(sums.result()))
    assert found[0] == found[1]


@pytest.mark.parametrize(("flags", "n_held_out"), [((), 288), (("--folds", "3"), 1438)])
def test_each_image_is_computed_once_within_the_budget_and_again_beyond_it(
    flags: Sequence[str], n_held_out: int
) -> None:
    kept = problem(Counting(), *flags)
    assert kept.n_features * n_held_out <= kept.most_kept
    counted, correct = [], []
    for most_kept in (16 * n_held_out, 16 * n_held_out - 1):
        Counting.n = 0
        fit = serial.fit(replace(kept, most_kept=most_kept))
        counted.append(Counting.n)
        correct.append(fit.correct.tolist())
    assert counted == [1438, 1438 + n_held_out]
    assert correct[0] == correct[1]


def test_pixels_are_not_kept_twice() -> None:
    assert not problem(PIXELS).keeps()
    assert problem(BlockMeans()).keeps()
    assert not problem(BlockMeans(), "--keep", "0").keeps(8)
