"""Moments: everything ridge regression needs to know of any number of images.

Features are integers from 0 to 255, so the sums are integers. They are kept in float64, which holds integers
up to 2⁵³ exactly: whatever the order and the grouping in which moments are added, the result is the same to
the last bit, as long as n·255² < 2⁵³, which is 138 thousand million images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.catalogue import Indices
from common.imageset import Labels, Pixels
from common.metrics import Floats
from common.ridge.features import features
from common.splits import ALWAYS_TRAINING, Folds

SHIFT = 128
BLOCK_ROWS = 1024
"""Rows whose float32 Gram matrix is exact.

Shifted by 128, features lie in [-128, 127], so that a sum of 1,024 products stays within 1,024·128² = 2²⁴, the
last integer below which float32 holds them all. Unshifted it would be 258 rows (258·255² < 2²⁴), and four times
as many small products to add up in float64.
"""


@dataclass(frozen=True)
class Moments:
    """Sums over a block of images x with one-vs-all targets y; a commutative group under addition.

    The targets of an image of class c are y_c = +1 and −1 for every other class.

    Attributes:
        n: how many images.
        sum_x: Σx, float64 (d,), in units of pixel intensities 0 to 255, as are the others.
        sum_y: Σy, float64 (n_classes,).
        gram: XᵀX, float64 (d, d).
        cross: XᵀY, float64 (d, n_classes).
    """

    n: int
    sum_x: Floats
    sum_y: Floats
    gram: Floats
    cross: Floats

    @classmethod
    def of(cls, pixels: Pixels, labels: Labels, n_classes: int, rows: Indices | None = None) -> Moments:
        """The exact moments of images.

        With z = x − s for the shift s, and per class c the sum Z_c of its n_c images:

            XᵀX = ZᵀZ + s (Σz 1ᵀ + 1 Σzᵀ) + n s² 1 1ᵀ
            (XᵀY)_c = 2 Σ_{i in c} x_i − Σx = 2 (Z_c + n_c s) − Σx

        Args:
            pixels: uint8 (n, height, width, channels).
            labels: int64 (n,).
            n_classes: how many classes there are, among these images or elsewhere.
            rows: int64, the positions of the images that count; None for all. They are never copied at once.
        """
        x = features(pixels)
        d = x.shape[1]
        n = len(x) if rows is None else len(rows)
        # shifted_gram.shape = (d, d); class_sums.shape = (d, n_classes)
        shifted_gram = np.zeros((d, d))
        class_sums = np.zeros((d, n_classes))
        class_counts = np.zeros(n_classes)
        z_buffer = np.empty((min(n, BLOCK_ROWS), d), np.float32)
        gram_buffer = np.empty((d, d), np.float32)
        for start in range(0, n, BLOCK_ROWS):
            block_rows = slice(start, start + BLOCK_ROWS) if rows is None else rows[start : start + BLOCK_ROWS]
            block, block_labels = x[block_rows], labels[block_rows]
            z = z_buffer[: len(block)]
            # x − 128 in int8 arithmetic: flipping the top bit is the subtraction, and the cast is vectorised
            z[...] = (block ^ np.uint8(SHIFT)).view(np.int8)
            # numpy hands a matrix times its own transpose to syrk, which does half the work
            np.matmul(z.T, z, out=gram_buffer)
            shifted_gram += gram_buffer
            # only the classes in this block: the cost is bounded by the block, however many classes exist
            present, column = np.unique(block_labels, return_inverse=True)
            one_hot = np.zeros((len(block), len(present)), np.float32)
            one_hot[np.arange(len(block)), column] = 1
            class_sums[:, present] += z.T @ one_hot
            class_counts[present] += one_hot.sum(axis=0)

        shift_x = SHIFT * class_sums.sum(axis=1)  # s Σz, for every image is of one class
        shifted_gram += shift_x[:, None] + (shift_x + n * SHIFT**2)[None, :]
        class_sums += SHIFT * class_counts
        sum_x = class_sums.sum(axis=1)
        cross = 2 * class_sums
        cross -= sum_x[:, None]
        return cls(n, sum_x, 2 * class_counts - n, shifted_gram, cross)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.n + other.n,
            self.sum_x + other.sum_x,
            self.sum_y + other.sum_y,
            self.gram + other.gram,
            self.cross + other.cross,
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.n - other.n,
            self.sum_x - other.sum_x,
            self.sum_y - other.sum_y,
            self.gram - other.gram,
            self.cross - other.cross,
        )

    def centred(self) -> tuple[Floats, Floats]:
        """Centred Gram matrix (d, d) and cross products (d, n_classes).

        XᵀX − n μμᵀ, computed as (n XᵀX − Σx Σxᵀ) / n. For a pixel of constant value v both products are the same
        number, n·v·Σx, rounded in the same way, so that it comes out as exact zeros.
        """
        gram = self.n * self.gram
        gram -= np.outer(self.sum_x, self.sum_x)
        gram /= self.n
        cross = self.n * self.cross
        cross -= np.outer(self.sum_x, self.sum_y)
        cross /= self.n
        return gram, cross


FoldMoments = dict[int, Moments]
"""Moments by the fold that their images validate; splits.ALWAYS_TRAINING for those that validate none."""


def moments_by_fold(pixels: Pixels, labels: Labels, folds: Folds, n_classes: int) -> FoldMoments:
    """Moments fold by fold: pixels uint8 (n, h, w, c), labels int64 (n,), folds int16 (n,)."""
    return {
        int(fold): Moments.of(pixels, labels, n_classes, np.flatnonzero(folds == fold))
        for fold in np.unique(folds)
    }


def merge(a: FoldMoments, b: FoldMoments) -> FoldMoments:
    """Add fold by fold."""
    merged = dict(a)
    for fold, moments in b.items():
        merged[fold] = merged[fold] + moments if fold in merged else moments
    return merged


def total(moments: FoldMoments) -> Moments:
    """The moments of all images."""
    first, *others = moments.values()
    return sum(others, start=first)


def training_moments(moments: FoldMoments) -> FoldMoments:
    """For each fold that validates: the moments of all other images, by subtraction."""
    everything = total(moments)
    return {fold: everything - own for fold, own in sorted(moments.items()) if fold != ALWAYS_TRAINING}


def validation_size(moments: FoldMoments) -> int:
    """How many images validate a model."""
    return sum(own.n for fold, own in moments.items() if fold != ALWAYS_TRAINING)
