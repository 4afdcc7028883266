"""Images that belong together, such as those of one patient or one camera, dealt out group by group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.arrays import Groups, Indices, Labels
from common.errors import InputError

DECIMALS = 12
"""Digits of a cost that count: sums of other processors may differ in the last bits, and must choose alike."""


def deal_groups(
    labels: Labels, groups: Groups, shares: Sequence[float], seed: int, purpose: str, what: str
) -> Indices:
    """Deal out images to bins, so that images of one group are in one bin.

    Let p be a bin's part of the images of a class, and s the bin's share. Groups are taken in a random order,
    roughly from the largest to the smallest, and each goes where the sum of p²/s over all classes and bins is
    smallest. So every bin has about its share of every class, as far as the groups allow.

    Args:
        labels: int64 (n,).
        groups: the name of each image's group, text (n,).
        shares: the part of all images that each bin should have; they add up to 1.
        seed: the run's seed.
        purpose: a word; results for different purposes are independent of each other.
        what: the bins, for messages.

    Returns:
        the bin of each image, int64 (n,); no bin is empty.

    Raises:
        InputError: there are fewer groups than bins.
    """
    group_of = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group_of)
    if len(sizes) < len(shares):
        one = "1 group" if len(sizes) == 1 else f"{len(sizes)} groups"
        raise InputError(f"images of {one} are too few for {what}, because a group is never split")
    shuffled = np.random.default_rng([seed, *purpose.encode()]).permutation(len(sizes))
    order = shuffled[np.argsort(-np.floor(np.log2(sizes[shuffled])), kind="stable")]
    totals = np.bincount(labels)
    # the images of each class in each group, group by group
    pairs, counts = np.unique(group_of * len(totals) + labels, return_counts=True)
    ends = np.searchsorted(pairs // len(totals), np.arange(len(sizes)), side="right")
    starts = np.concatenate([[0], ends[:-1]])
    held, n_held = np.zeros((len(shares), len(totals))), np.zeros(len(shares))
    wanted = np.asarray(shares, np.float64)
    bins = np.empty(len(sizes), np.int64)
    for group in order:
        own = slice(starts[group], ends[group])
        classes = pairs[own] % len(totals)
        parts = counts[own] / totals[classes]
        cost = ((2 * held[:, classes] + parts) * parts).sum(axis=1) / wanted
        cost = (cost / cost.max()).round(DECIMALS)
        bins[group] = chosen = np.lexsort((n_held / wanted, cost))[0]
        held[chosen, classes] += parts
        n_held[chosen] += sizes[group]
    for empty in np.flatnonzero(n_held == 0):  # of very uneven shares
        bins[_spare(order, bins, pairs, len(totals))] = empty
    return bins[group_of]


def _spare(order: Indices, bins: Indices, pairs: Indices, n_classes: int) -> int:
    """Return a small group whose bin has others, if possible one whose classes all have other groups in its bin.

    Args:
        order: the groups, the largest first.
        bins: the bin of each group.
        pairs: group · n_classes + class of each class in a group, sorted.
        n_classes: the number of classes.
    """
    crowded = [group for group in order[::-1].tolist() if (bins == bins[group]).sum() > 1]
    for group in crowded:
        neighbours = np.flatnonzero((bins == bins[group]) & (np.arange(len(bins)) != group))
        kept = pairs[np.isin(pairs // n_classes, neighbours)] % n_classes
        if np.isin(pairs[pairs // n_classes == group] % n_classes, kept).all():
            return int(group)
    return int(crowded[0])
