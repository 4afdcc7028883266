"""Seeded stratified splits, folds and shards.

One order serves them all. Within each class the images are shuffled. Image j of a class of m images then gets the
key (j + u) / m, with u uniform in [0, 1) drawn once per class, and all images are sorted by key. Any stretch of
this order holds each class in proportion, give or take two images, and the only image of a rare class may fall
anywhere. So a limit is a prefix, a held-out fraction is a suffix, and K folds are K stretches of even length.
Images in groups are dealt out by groups.py instead, so that no group is split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Folds, Groups, Hashes, Indices, Labels
from common.data.groups import deal_groups

ALWAYS_TRAINING = -1
"""The fold number of images that never validate."""


def stratified_order(labels: Labels, seed: int, purpose: str) -> Indices:
    """Return a permutation of range(n), int64 (n,), in which every stretch is stratified.

    Args:
        labels: int64 (n,).
        seed: the run's seed.
        purpose: a word; orders for different purposes are independent of each other.
    """
    rng = np.random.default_rng([seed, *purpose.encode()])
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    sorted_labels = labels[by_class]
    within = np.arange(len(labels)) - first[sorted_labels]
    keys = (within + rng.random(len(counts))[sorted_labels]) / counts[sorted_labels]
    return by_class[np.argsort(keys, kind="stable")].astype(np.int64)


class Holdout(NamedTuple):
    """Positions of the remaining and of the held-out images, each ascending."""

    rest: Indices
    held_out: Indices


def hold_out(labels: Labels, fraction: float, seed: int, purpose: str, groups: Groups | None = None) -> Holdout:
    """Hold out a stratified fraction: at least one image, and never all.

    Of images in groups (n,), whole groups are held out, of about that many images.

    Raises:
        InputError: all images are of one group.
    """
    if groups is not None:
        what = f"training and {purpose}"
        held_out = deal_groups(labels, groups, (1 - fraction, fraction), seed, purpose, what) == 1
        return Holdout(np.flatnonzero(~held_out), np.flatnonzero(held_out))
    order = stratified_order(labels, seed, purpose)
    n_held_out = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    n_rest = len(labels) - n_held_out
    return Holdout(np.sort(order[:n_rest]), np.sort(order[n_rest:]))


def stratified_limit(labels: Labels, n: int, seed: int) -> Indices:
    """Return the positions of n images, stratified and ascending; a larger n includes every smaller one's."""
    return np.sort(stratified_order(labels, seed, "limit")[:n])


def validation_fold(labels: Labels, fraction: float, seed: int, groups: Groups | None = None) -> Folds:
    """Return fold numbers, int16 (n,): 0 for what `hold_out` holds out, ALWAYS_TRAINING for the rest."""
    folds = np.full(len(labels), ALWAYS_TRAINING, np.int16)
    folds[hold_out(labels, fraction, seed, "validation", groups).held_out] = 0
    return folds


def k_folds(labels: Labels, k: int, seed: int, groups: Groups | None = None) -> Folds:
    """Return fold numbers 0 to k-1, int16 (n,): stratified folds whose sizes differ by at most one.

    Of images in groups (n,), each fold is some of the groups, and sizes are as even as these allow.

    Raises:
        InputError: there are fewer groups than folds.
    """
    if groups is not None:
        return deal_groups(labels, groups, [1 / k] * k, seed, "folds", f"{k} folds").astype(np.int16)
    folds = np.empty(len(labels), np.int16)
    order = stratified_order(labels, seed, "folds")
    for fold in range(k):
        folds[order[shard(len(labels), fold, k)]] = fold
    return folds


def shard(n: int, rank: int, size: int) -> slice:
    """Return part `rank` of `size` contiguous parts of n items, whose lengths differ by at most one."""
    return slice(n * rank // size, n * (rank + 1) // size)


HASHES = 3
"""Independent 32-bit hashes of a name: one each for its split, its fold and its place in the order."""

FOLD_BUCKETS = 5040
"""Fine folds that a name can hash to: 7!, which is divisible by every K up to 10, and by 12, 14, 15, 16 and 18."""


def stable_hashes(names: Iterable[str]) -> Hashes:
    """Return hashes that a name has for ever and on every machine, uint32 (n, HASHES)."""
    digests = b"".join(
        hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4 * HASHES).digest() for name in names
    )
    return np.frombuffer(digests, "<u4").astype(np.uint32).reshape(-1, HASHES)


def image_hashes(names: Iterable[str], groups: Iterable[str] | None) -> Hashes:
    """Return the hashes that decide where each image of a table goes, uint32 (n, HASHES).

    Images of one group share the hashes for split and fold, and so stay together.

    Args:
        names: n names.
        groups: the group of each; None if every image is by itself.
    """
    hashes = stable_hashes(names)
    if groups is not None:
        hashes[:, :2] = stable_hashes(groups)[:, :2]
    return hashes


def hashed_test(hashes: Hashes, fraction: float) -> NDArray[np.bool_]:
    """Return which names belong to the test set if it takes this fraction of all names, bool (n,)."""
    return hashes[:, 0] < fraction * 2.0**32


def hashed_buckets(hashes: Hashes) -> Folds:
    """Return the fine fold of each name, int16 (n,), from 0 to FOLD_BUCKETS − 1."""
    return (hashes[:, 1].astype(np.int64) * FOLD_BUCKETS >> 32).astype(np.int16)


@dataclass(frozen=True)
class FoldRule:
    """A rule that holds out images for validation.

    Attributes:
        k: K-fold cross-validation, or None for one hold-out.
        validation: the fraction of a hold-out; unused with K folds.
    """

    k: int | None
    validation: float

    def of_labels(self, labels: Labels, seed: int, groups: Groups | None = None) -> Folds:
        """Return stratified folds of images whose labels are all known, int16 (n,); no group is split.

        Raises:
            InputError: there are too few groups.
        """
        if self.k:
            return k_folds(labels, self.k, seed, groups)
        return validation_fold(labels, self.validation, seed, groups)

    def of_split(self, n_train: int, labels: Labels, seed: int, groups: Groups | None = None) -> Folds:
        """Return folds of training images that are followed by a source's own images for validation, int16 (n,).

        A hold-out holds out those; K folds are made of all images.

        Args:
            n_train: the number of training images.
            labels: int64 (n,), of all images.
            seed: the seed of K folds.
            groups: text (n,), the group of each image, which no fold splits; None if every image is by itself.

        Raises:
            InputError: there are too few groups.
        """
        if self.k:
            return k_folds(labels, self.k, seed, groups)
        return np.where(np.arange(len(labels)) < n_train, np.int16(ALWAYS_TRAINING), np.int16(0))

    def of_buckets(self, buckets: Folds) -> Folds:
        """Return folds by the hash of each image's name alone, int16 (n,): a name never changes its fold."""
        if self.k:
            return (buckets.astype(np.int64) * self.k // FOLD_BUCKETS).astype(np.int16)
        return np.where(buckets < self.validation * FOLD_BUCKETS, np.int16(0), np.int16(ALWAYS_TRAINING))

    def __str__(self) -> str:
        return f"--folds {self.k}" if self.k else f"--validation {self.validation:g}"
