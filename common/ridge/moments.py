"""Moments: the sums over images that ridge regression needs, of fixed size for any number of images.

Features are integers from 0 to 255, so these sums are integers. float64 holds integers up to 2⁵³ exactly. So the
sum of moments is the same to the last bit in any order and grouping, as long as n·255² < 2⁵³: 138 thousand million
images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Floats, Folds, Indices, Labels, Pixels
from common.data.images import Block
from common.data.splits import ALWAYS_TRAINING
from common.features.augmentation import AS_IT_IS, Augmentation
from common.features.feature_map import BATCH_ROWS, FeatureMap
from common.features.pixels import PIXELS
from common.int8 import SHIFT
from common.ridge.gram import GramProduct, best_product
from common.ridge.kept import batches_of_features
from common.ridge.sums import ClassSums, ShiftedRows

MIRRORED = 128
"""Columns that are copied to rows at once, so that they stay in the cache."""


@dataclass(frozen=True)
class Moments:
    """Sums over images with features x and one-vs-all targets y; a commutative group under addition.

    An image of class c has the target +1 for c and −1 for every other class. Features are from 0 to 255.

    Attributes:
        n: the number of images.
        sum_x: Σx, float64 (d,).
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
    def of(cls, pixels: Pixels, labels: Labels, n_classes: int, features: FeatureMap = PIXELS) -> Moments:
        """Compute the exact moments of images: pixels uint8 (n, h, w, c), labels int64 (n,)."""
        sums = MomentsSum(features.n_features(pixels.shape[1:]), n_classes)
        for start in range(0, len(labels), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            sums.add(features(pixels[rows]), labels[rows])
        return sums.result()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle half of the symmetric Gram matrix, which is nearly all of the bytes sent between processes."""
        return _unpacked, (self.n, self.sum_x, self.sum_y, pack(self.gram), self.cross)

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

    def over_classes(self, positions: Labels, n_classes: int) -> Moments:
        """Return the moments over more classes, as if these had been known when the images were summed.

        Nothing but Σx is needed: no image is of a class that is new, and so each has the target −1 for it.

        Args:
            positions: where each class of these moments is among all, int64 (n_classes before,).
            n_classes: the number of all classes.
        """
        sum_y = np.full(n_classes, -float(self.n))
        sum_y[positions] = self.sum_y
        cross = np.repeat(0 - self.sum_x[:, None], n_classes, axis=1)  # 0 − 0 is 0, and −(0) would be −0
        cross[:, positions] = self.cross
        return Moments(self.n, self.sum_x, sum_y, self.gram, cross)

    def of_classes(self, positions: Labels) -> Moments:
        """Return the moments over some of the classes, as if the others had never been known.

        No image may be of one of the others: see `has_class`.

        Args:
            positions: of these classes among all, int64 (n_classes after,).
        """
        return Moments(self.n, self.sum_x, self.sum_y[positions], self.gram, self.cross[:, positions].copy())

    def has_class(self, position: int) -> bool:
        """Return whether images of a class, or features of theirs, are left in these moments.

        With targets of ±1, (XᵀY)_c = 2 Σ_{i in c} x_i − Σx: without an image of class c it is −Σx.
        """
        return bool(self.class_counts[position] or (self.cross[:, position] + self.sum_x).any())

    @property
    def class_counts(self) -> Floats:
        """The number of images per class, float64 (n_classes,)."""
        return (self.sum_y + self.n) / 2

    def centred(self) -> tuple[Floats, Floats]:
        """Return the centred Gram matrix (d, d) and cross products (d, n_classes).

        XᵀX − n μμᵀ is computed as (n XᵀX − Σx Σxᵀ) / n. For a feature of constant value v both products are the
        same number n·v·Σx, rounded alike, so that their difference is exactly zero.
        """
        gram = self.n * self.gram
        gram -= np.outer(self.sum_x, self.sum_x)
        gram /= self.n
        cross = self.n * self.cross
        cross -= np.outer(self.sum_x, self.sum_y)
        cross /= self.n
        return gram, cross


def packed_bytes(d: int, n_classes: int) -> int:
    """Return the size of pickled moments of d features."""
    return 8 * (d * (d + 1) // 2 + d * n_classes)


def pack(gram: Floats) -> Floats:
    """Return the upper half of a symmetric matrix (d, d), row by row: (d(d + 1)/2,)."""
    return np.concatenate([row[i:] for i, row in enumerate(gram)])


def unpack(packed: Floats, d: int) -> Floats:
    """Rebuild the symmetric matrix (d, d) that pack() took the upper half of."""
    gram = np.empty((d, d))
    start = 0
    for i in range(d):
        gram[i, i:] = packed[start : start + d - i]
        start += d - i
    for start in range(0, d, MIRRORED):
        own = slice(start, min(start + MIRRORED, d))
        corner = gram[own, own]
        below = np.tril_indices(len(corner), -1)
        corner[below] = corner.T[below]
        gram[own.stop :, own] = gram[own, own.stop :].T
    return gram


def _unpacked(n: int, sum_x: Floats, sum_y: Floats, packed: Floats, cross: Floats) -> Moments:
    """Rebuild what __reduce__ packed."""
    return Moments(n, sum_x, sum_y, unpack(packed, len(sum_x)), cross)


class MomentsSum:
    """Accumulates moments in place, a block of images at a time.

    With z = x − s for the shift s,

        XᵀX = ZᵀZ + s (Σz 1ᵀ + 1 Σzᵀ) + n s² 1 1ᵀ

    Args:
        d: the number of features.
        n_classes: the number of classes, whether or not these images show all of them.
        product: multiplies blocks; several sums may share one.
    """

    def __init__(self, d: int, n_classes: int, product: GramProduct | None = None) -> None:
        self._product = best_product(d) if product is None else product
        self._shifted_gram = np.zeros((d, d))
        self._sums = ClassSums(d, n_classes)
        self._rows = ShiftedRows(self._product, d, self._use)

    def add(self, x: Features, labels: Labels, rows: Indices | None = None) -> None:
        """Add images: x uint8 (n, d), labels int64 (n,); or only those at some positions."""
        self._rows.add(x, labels, rows)

    def _use(self, z: NDArray[Any], labels: Labels) -> None:
        self._product.add(z, self._shifted_gram)
        self._sums.add(z, labels)

    def result(self) -> Moments:
        """Return the moments of all images added. Call this once, last."""
        self._rows.flush()
        self._product.complete(self._shifted_gram)
        gram, n = self._shifted_gram, self._sums.n
        shift_x = self._sums.shifted_sum()
        gram += shift_x[:, None] + (shift_x + n * SHIFT**2)[None, :]
        sum_x, sum_y, cross = self._sums.result()
        return Moments(n, sum_x, sum_y, gram, cross)


FoldMoments = dict[int, Moments]
"""Moments per fold that images validate; splits.ALWAYS_TRAINING is the key of images that validate none."""


class FoldSums:
    """One MomentsSum per fold.

    Args:
        n_classes: the number of classes.
        features: computes the features of images.
        augmentation: the variants of each image that are added with it.
        product: makes a product for a number of features.
    """

    def __init__(
        self,
        n_classes: int,
        features: FeatureMap = PIXELS,
        augmentation: Augmentation = AS_IT_IS,
        product: Callable[[int], GramProduct] = best_product,
    ) -> None:
        self._n_classes = n_classes
        self._features = features
        self._augmentation = augmentation
        self._sums: dict[int, MomentsSum] = {}
        self._make_product = product
        self._product: GramProduct | None = None

    def add(self, pixels: Pixels, labels: Labels, folds: Folds) -> None:
        """Add images: pixels uint8 (n, h, w, c), labels int64 (n,), folds int16 (n,)."""
        self.add_block(Block(pixels, labels, folds, None, []))

    def add_block(self, block: Block) -> None:
        """Add the images of a block."""
        for x, rows in batches_of_features(block, self._features, self._augmentation):
            self._add(x, block.labels[rows], block.folds[rows])

    def _add(self, x: Features, labels: Labels, folds: Folds) -> None:
        d = x.shape[1]
        if self._product is None:
            self._product = self._make_product(d)
        for fold in np.unique(folds):
            if fold not in self._sums:
                self._sums[int(fold)] = MomentsSum(d, self._n_classes, self._product)
            self._sums[int(fold)].add(x, labels, np.flatnonzero(folds == fold))

    @property
    def products(self) -> frozenset[str]:
        """The name of what multiplied, for the report; empty before any image was added."""
        return frozenset() if self._product is None else frozenset({self._product.name})

    def result(self) -> FoldMoments:
        """Return the moments of all images added, by fold. Call this once, last."""
        return {fold: self._sums.pop(fold).result() for fold in sorted(self._sums)}


def merge(a: FoldMoments, b: FoldMoments) -> FoldMoments:
    """Add moments fold by fold."""
    merged = dict(a)
    for fold, moments in b.items():
        merged[fold] = merged[fold] + moments if fold in merged else moments
    return merged


def total(moments: FoldMoments) -> Moments:
    """Return the moments of all images."""
    first, *others = moments.values()
    return sum(others, start=first)


def training_moments(moments: FoldMoments, everything: Moments | None = None) -> FoldMoments:
    """Return, for each fold that validates, the moments of all other images: the total minus its own."""
    everything = total(moments) if everything is None else everything
    return {fold: everything - own for fold, own in sorted(moments.items()) if fold != ALWAYS_TRAINING}


def flatten(moments: FoldMoments, folds: Sequence[int], d: int, n_classes: int) -> Floats:
    """Lay out moments as one array, so that ranks can sum arrays instead: (len(folds), flat_length(d, n_classes)).

    Args:
        moments: moments of some of the folds.
        folds: the numbers of all folds.
        d: the number of features.
        n_classes: the number of classes.
    """
    flat = np.zeros((len(folds), flat_length(d, n_classes)))
    for row, fold in zip(flat, folds, strict=True):
        if fold in moments:
            own = moments[fold]
            parts = (np.array([float(own.n)]), own.sum_x, own.sum_y, pack(own.gram), own.cross.reshape(-1))
            np.concatenate(parts, out=row)
    return flat


def flat_length(d: int, n_classes: int) -> int:
    """Return the length of a row of flatten()."""
    return 1 + d + n_classes + d * (d + 1) // 2 + d * n_classes


def unflatten(flat: Floats, folds: Sequence[int], d: int, n_classes: int) -> FoldMoments:
    """Rebuild moments from the array of flatten(), leaving out folds without an image."""
    ends = np.cumsum([1, d, n_classes, d * (d + 1) // 2])
    moments = {}
    for row, fold in zip(flat, folds, strict=True):
        n, sum_x, sum_y, gram, cross = np.split(row, ends)
        if n[0]:
            # Copied, because views would keep all of `flat` in memory.
            sums = sum_x.copy(), sum_y.copy(), unpack(gram, d), cross.reshape(d, n_classes).copy()
            moments[fold] = Moments(int(n[0]), *sums)
    return moments


def fingerprint(moments: FoldMoments) -> str:
    """Return a SHA-256 of every bit: equal if and only if the same images were summed, fold by fold."""
    found = hashlib.sha256()
    for fold, own in sorted(moments.items()):
        for part in (np.array([fold, own.n]), own.sum_x, own.sum_y, own.gram, own.cross):
            found.update(part.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
