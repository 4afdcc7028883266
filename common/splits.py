"""Seeded stratified splits, folds and shards.

One order serves them all. Within each class the images are shuffled; then image j of a class of m gets the
key (j + u) / m, with u uniform in [0, 1) drawn once a class, and all images are sorted by key. Any stretch of
that order holds each class in its share, give or take two images, and single images of rare classes fall
anywhere. So a limit is a prefix, a held-out fraction a suffix, and K folds are K stretches of even length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.catalogue import Indices
from common.imageset import Labels

Folds = NDArray[np.int16]

ALWAYS_TRAINING = -1
"""The fold number of images that validate no model."""


def stratified_order(labels: Labels, seed: int, purpose: str) -> Indices:
    """A permutation of range(n) in which every stretch is stratified.

    Args:
        labels: int64 (n,).
        seed: the run's seed.
        purpose: orders for different purposes are independent of each other.
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
    """Positions of the images that stay and of those held out, each ascending."""

    rest: Indices
    held_out: Indices


def hold_out(labels: Labels, fraction: float, seed: int, purpose: str) -> Holdout:
    """Hold out a stratified fraction, at least one image and never all."""
    order = stratified_order(labels, seed, purpose)
    n_held_out = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    n_rest = len(labels) - n_held_out
    return Holdout(np.sort(order[:n_rest]), np.sort(order[n_rest:]))


def limit(labels: Labels, n: int, seed: int) -> Indices:
    """Positions of n images, stratified, ascending; a larger n includes what a smaller one did."""
    return np.sort(stratified_order(labels, seed, "limit")[:n])


def validation_fold(labels: Labels, fraction: float, seed: int) -> Folds:
    """Fold numbers, int16 (n,): 0 for a stratified fraction, ALWAYS_TRAINING for the rest."""
    folds = np.full(len(labels), ALWAYS_TRAINING, np.int16)
    folds[hold_out(labels, fraction, seed, "validation").held_out] = 0
    return folds


def k_folds(labels: Labels, k: int, seed: int) -> Folds:
    """Fold numbers 0 to k-1, int16 (n,): stratified, of sizes that differ by at most one."""
    folds = np.empty(len(labels), np.int16)
    order = stratified_order(labels, seed, "folds")
    for fold in range(k):
        folds[order[shard(len(labels), fold, k)]] = fold
    return folds


def shard(n: int, rank: int, size: int) -> slice:
    """Part `rank` of `size` contiguous parts of n items, whose lengths differ by at most one."""
    return slice(n * rank // size, n * (rank + 1) // size)
