"""Generated images: a map that learns from them owes nothing to anybody's images."""

from __future__ import annotations

from functools import cache

import numpy as np

from common.arrays import Floats, Pixels
from common.features.feature_map import Shape

OCTAVES = 5
"""Grids of noise that are added up: each has twice as many points per axis as the one before."""


def generated_images(shape: Shape, n: int, seed: int) -> Pixels:
    """Return images of smooth noise, with the spectrum of photographs (Field 1987).

    Args:
        shape: of each image.
        n: their number.
        seed: of the noise.

    Returns:
        uint8 (n, height, width, channels).
    """
    rng = np.random.default_rng([seed, *b"generated"])
    height, width, channels = shape
    images = np.empty((n, *shape), np.uint8)
    for image in images:
        grey = _noise(rng, height, width)[..., None]
        colour = np.stack([_noise(rng, height, width) for _ in range(channels)], axis=2) if channels > 1 else 0
        contrast = rng.uniform(0.5, 3)
        image[...] = np.rint(255 / (1 + np.exp(-contrast * (grey + 0.3 * colour))))
    return images


def _noise(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return noise of deviation 1 or so at all scales, float64 (height, width)."""
    found = np.zeros((height, width))
    for octave in range(OCTAVES):
        points = 2 ** (octave + 1)
        grid = rng.standard_normal((points + 1, points + 1))
        found += _interpolation(height, points) @ grid @ _interpolation(width, points).T / 2 ** (octave / 2)
    return found


@cache
def _interpolation(length: int, points: int) -> Floats:
    """Return the weights of points + 1 points of a grid at each position of an axis, (length, points + 1)."""
    at = (np.arange(length) + 0.5) * points / length
    weights: Floats = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(points + 1)))
    return weights
