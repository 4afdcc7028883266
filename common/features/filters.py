"""Filters as centroids of whitened patches, the same on every processor (Coates, Ng & Lee 2011).

Directions count on both of their sides (spherical k-means). A patch that is nearly as close to one centroid as to
another may go to either, and a few such patches make other filters. So they are compared in whole numbers, whose
sums are the same on every processor. The whitening matrix alone comes from an eigendecomposition, whose rounding
errors are far below the last digit that is kept of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats, Indices

LARGEST = 127
"""The largest number of a patch, and of a filter."""

KMEANS_STEPS = 8

WHITENING, WHITE, UNIT = 2**20, 2**15, 2**12
"""The largest numbers of the whitening matrix, of whitened patches and of unit vectors. Sums of 108 products of
patches with the first, or of the second with the third, are below 2⁵³, and so are sums of 60,000 of the second."""

NEAREST_ROWS = 4096
"""Patches that are compared with all centroids at once."""


def learn_filters(
    z: NDArray[np.int8], n_filters: int, smoothing: float, rng: np.random.Generator
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Return centroids of whitened patches, in terms of patches: int8 (F, D); and their offsets, int32 (F,).

    Args:
        z: patches, int8 (n, D).
        n_filters: the number of filters, F.
        smoothing: share of the mean eigenvalue that is added to all in whitening.
        rng: chooses the first centroids, and patches for those that lose all of theirs.

    Raises:
        ValueError: the patches do not vary.
    """
    n = len(z)
    x = z.astype(np.float64)
    total = x.sum(axis=0)
    covariance = (n * (x.T @ x) - np.outer(total, total)) / (n * (n - 1.0))
    values, vectors = np.linalg.eigh(covariance)
    if not values.max() > 0:
        raise ValueError("the training images do not vary, and so there are no filters to learn")
    whitening: Floats = (vectors / np.sqrt(values + smoothing * values.mean())) @ vectors.T
    whitening = np.rint(whitening * (WHITENING / np.abs(whitening).max()))
    white = x @ whitening - np.floor(total @ whitening / n)
    white = np.rint(white * (WHITE / np.abs(white).max()))
    varied = np.flatnonzero(white.any(axis=1))
    centroids = white[rng.choice(varied, n_filters, replace=len(varied) < n_filters)]
    for _ in range(KMEANS_STEPS):
        nearest, signs = _nearest(white, _unit(centroids))
        sums = np.empty_like(centroids)
        for i in range(n_filters):
            own = np.flatnonzero(nearest == i)
            sums[i] = signs[own] @ white[own]
        empty = ~sums.any(axis=1)
        sums[empty] = white[rng.choice(varied, int(empty.sum()))]
        centroids = sums
    wanted = _unit(centroids) @ whitening
    wanted *= LARGEST / np.abs(wanted).max(axis=1, keepdims=True)
    filters = np.rint(wanted).astype(np.int8)
    return filters, np.rint(filters.astype(np.float64) @ total / n).astype(np.int32)


def _unit(centroids: Floats) -> Floats:
    """Return directions (F, D) of the same length, rounded to whole numbers up to UNIT."""
    rounded = np.rint(centroids * (UNIT / np.maximum(1, np.abs(centroids).max(axis=1, keepdims=True))))
    length = np.sqrt((rounded * rounded).sum(axis=1, keepdims=True))
    directions: Floats = np.rint(rounded * (UNIT / np.maximum(1, length)))
    return directions


def _nearest(white: Floats, directions: Floats) -> tuple[Indices, Floats]:
    """Return for each patch (n, D) the direction that it is closest to, int64 (n,), and on which side, ±1 (n,)."""
    nearest, signs = np.empty(len(white), np.int64), np.empty(len(white))
    for start in range(0, len(white), NEAREST_ROWS):
        own = slice(start, start + NEAREST_ROWS)
        responses = white[own] @ directions.T
        nearest[own] = np.abs(responses).argmax(axis=1)
        signs[own] = np.sign(responses[np.arange(len(responses)), nearest[own]])
    return nearest, signs
