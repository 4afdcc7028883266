"""Small sets of moments, and their comparison bit by bit."""

from __future__ import annotations

import numpy as np

from common.arrays import Folds, Labels, Pixels
from common.data.decode import PixelFormat
from common.data.splits import FoldRule
from common.features.augmentation import AS_IT_IS, Augmentation
from common.ridge.moments import FoldMoments, FoldSums, Moments
from common.ridge.moments_file import Basis

RNG = np.random.default_rng(9)
BASIS = Basis((5, 4, 1), PixelFormat((5, 4), grey=True), ("ash", "beech", "żółw"), FoldRule(None, 0.2), "--seed 0")


def assert_identical(a: Moments, b: Moments) -> None:
    """Check that moments have the same bits."""
    assert a.n == b.n
    for field in ("sum_x", "sum_y", "gram", "cross"):
        assert getattr(a, field).dtype == np.float64
        assert np.array_equal(getattr(a, field), getattr(b, field)), field


def moments_by_fold(
    pixels: Pixels, labels: Labels, folds: Folds, n_classes: int, augmentation: Augmentation = AS_IT_IS
) -> FoldMoments:
    """Return the moments of images by fold."""
    sums = FoldSums(n_classes, augmentation=augmentation)
    sums.add(pixels, labels, folds)
    return sums.result()


def images(n: int) -> tuple[Pixels, Labels, Folds]:
    """Return n random images as `BASIS` describes them, with labels and folds."""
    return (
        RNG.integers(0, 256, (n, 5, 4, 1), np.uint8),
        RNG.integers(0, 3, n),
        RNG.integers(-1, 1, n).astype(np.int16),
    )


def moments(n: int) -> FoldMoments:
    """Return the moments of n random images by fold."""
    return moments_by_fold(*images(n), 3)
