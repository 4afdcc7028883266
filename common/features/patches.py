"""Responses of filters to patches, pooled: a convolutional layer in integers.

Each patch of k×k pixels is normalised for contrast and cut to 8 bits. Filters of 8 bits respond to it, positive
and negative responses are clipped, and the responses in each cell of the image are summed. Sums are
taken in a type that holds them exactly, and what is no sum is one IEEE operation per number. So an image has the
same features alone and in any batch, on any BLAS.

The filters are centroids of whitened patches (Coates, Ng & Lee 2011), with a two-sided rectifier as in KeystoneML
(Sparks et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Floats, Indices, Pixels, Singles
from common.blas import in_threads
from common.features.feature_map import SAMPLE, FieldsOnly, Shape, array_digests, digest_of
from common.features.filters import LARGEST, learn_filters
from common.int8 import SHIFT, int8_kernel

KIND = "patches"

SIDE = 6
"""Height and width of a patch."""
CONTRAST = 32
"""The deviation that patches of high contrast are scaled to, in units of their 8 bits."""
MOST_SINGLE = 2**24
"""The largest whole number up to which float32 holds all of them."""

FEWEST_INT8_FILTERS = 128
"""Filters from which products of 8-bit integers save more than preparing patches for them costs."""

BATCH_VALUES = 1 << 20
"""Patches, and responses, that are held at once, at most: 4 MiB of float32, which stay in the cache."""


@dataclass(frozen=True)
class Patches(FieldsOnly):
    """The map from images to pooled responses.

    Attributes:
        pad: rows and columns of zeros around an image.
        cells: cells per axis.
        mirror: whether the responses to the mirrored image are added.
        floor: added to the variance of a patch, so that flat patches stay flat.
        filters: int8 (F, k·k·channels).
        offsets: int32 (F,), subtracted from responses.
        thresholds: int32 (F,); responses below count as zero.
        ceilings: int32 (F,); responses above are cut.
        scales: int64 (2F,), pooled responses that become 255.
    """

    pad: int
    cells: int
    mirror: bool
    floor: int
    filters: NDArray[np.int8]
    offsets: NDArray[np.int32]
    thresholds: NDArray[np.int32]
    ceilings: NDArray[np.int32]
    scales: NDArray[np.int64]

    @property
    def exact(self) -> bool:
        """All operations are."""
        return True

    @cached_property
    def digest(self) -> str:
        """The digest of settings and arrays."""
        return digest_of(self.describe())

    def n_features(self, shape: Shape) -> int:
        """Return two per filter and cell.

        Raises:
            ValueError: images are too small, or have other channels than those that the filters are for.
        """
        check_shape(shape, self.pad)
        channels = self.filters.shape[1] // SIDE**2
        if channels != shape[2]:
            raise ValueError(f"filters of {channels} channels do not fit images of {shape[2]}")
        return 2 * len(self.filters) * self.cells**2

    def describe(self) -> dict[str, Any]:
        """Return the settings, and the digests of the arrays."""
        return {
            "kind": KIND,
            "pad": self.pad,
            "cells": self.cells,
            "mirror": self.mirror,
            "floor": self.floor,
            "arrays": array_digests(self.arrays()),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learnt."""
        names = ("filters", "offsets", "thresholds", "ceilings", "scales")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Patches:
        """Rebuild the map."""
        pad, cells, floor = (int(described[name]) for name in ("pad", "cells", "floor"))
        learnt = (arrays[name] for name in ("filters", "offsets", "thresholds", "ceilings", "scales"))
        return cls(pad, cells, bool(described["mirror"]), floor, *learnt)

    def __call__(self, pixels: Pixels) -> Features:
        """Compute the features of uint8 (n, height, width, channels), a batch at a time: uint8 (n, d)."""
        out = np.empty((len(pixels), self.n_features(pixels.shape[1:])), np.uint8)

        def scale(rows: slice, pooled: Indices) -> None:
            out[rows] = np.minimum(pooled * 255 // self.scales, 255).reshape(len(pooled), -1)

        self._each_batch(pixels, scale)
        return out

    def pooled(self, pixels: Pixels) -> Indices:
        """Return sums of clipped responses, int64 (n, cells², 2F)."""
        out = np.empty((len(pixels), self.cells**2, 2 * len(self.filters)), np.int64)
        self._each_batch(pixels, out.__setitem__)
        return out

    def _each_batch(self, pixels: Pixels, use: Callable[[slice, Indices], None]) -> None:
        """Compute sums of clipped responses, a batch at a time in each of BLAS's threads, and use them."""
        _, height, width, channels = pixels.shape
        positions = (height + 2 * self.pad - SIDE + 1) * (width + 2 * self.pad - SIDE + 1)
        size = max(1, BATCH_VALUES // (positions * SIDE * SIDE * channels))

        def work(start: int) -> None:
            rows = slice(start, start + size)
            sums = self._pooled(pixels[rows])
            use(rows, sums + self._pooled(pixels[rows, :, ::-1]) if self.mirror else sums)

        in_threads(work, range(0, len(pixels), size))

    def _pooled(self, pixels: Pixels) -> Indices:
        patches = normalised(pixels, self.pad, self.floor)  # (k·k·channels, rows, columns, n)
        length, rows, columns, n = patches.shape
        patches = patches.reshape(length, -1)
        by_row, by_column = cell_matrix(rows, self.cells), cell_matrix(columns, self.cells)
        height, width = int(by_row[0].sum()), int(by_column[0].sum())
        bounds = np.stack([self.offsets + self.thresholds, self.offsets + self.ceilings])
        bounds = np.stack([bounds, 2 * self.offsets - bounds[::-1]])  # (sign, least or most, F), of responses
        largest = int(np.abs(bounds).max())
        by_row = by_row.astype(_holding(height * largest))
        by_column = by_column.astype(_holding(height * width * largest))
        pooled = np.empty((n, self.cells, self.cells, 2, len(self.filters)), np.int64)
        step = max(1, min(BATCH_VALUES // patches.shape[1], len(self.filters)))
        respond, buffer = self._responding(patches, step), np.empty((step, patches.shape[1]), by_row.dtype)
        for start in range(0, len(self.filters), step):
            own = slice(start, start + step)
            responses = respond(own)
            clipped = buffer[: len(responses)]
            for sign in range(2):
                least, most = bounds[sign, :, own, None].astype(responses.dtype)
                np.clip(responses, least, most, out=clipped)
                by_rows = clipped.reshape(-1, rows, columns * n)
                by_columns = np.matmul(by_row, by_rows).reshape(-1, self.cells, columns, n)
                sums = np.matmul(by_column, by_columns.astype(by_column.dtype, copy=False))
                pooled[..., sign, own] = sums.transpose(3, 1, 2, 0)
        # what was summed is a response and not its distance from the threshold
        pooled[..., 0, :] -= height * width * bounds[0, 0]
        pooled[..., 1, :] = height * width * bounds[1, 1] - pooled[..., 1, :]
        return pooled.reshape(n, self.cells**2, -1)

    def _responding(self, patches: Singles, step: int) -> Callable[[slice], NDArray[Any]]:
        """Return a function from up to `step` of the filters to their responses, (filters, positions · n).

        Responses are int32 from products of 8-bit integers, or float32; whole numbers below 2²⁴ in both. The next
        call overwrites them.

        Args:
            patches: float32 (k·k·channels, positions · n).
            step: the largest number of filters per call.
        """
        kernel = int8_kernel()
        if kernel is None or len(self.filters) < FEWEST_INT8_FILTERS:
            single, singles = np.empty((step, patches.shape[1]), np.float32), self.filters.astype(np.float32)
            return lambda own: np.matmul(singles[own], patches, out=single[: len(singles[own])])
        multiply, out = kernel.multiply, np.empty((step, patches.shape[1]), np.int32)
        left, right = self.filters.view(np.uint8) ^ np.uint8(SHIFT), patches.astype(np.int8)
        return lambda own: multiply(left[own], right, out[: len(left[own])])


def _holding(largest: int) -> type[np.float32] | type[np.float64]:
    """Return the smallest type that holds all whole numbers up to `largest` exactly."""
    return np.float32 if largest <= MOST_SINGLE else np.float64


def check_shape(shape: Shape, pad: int) -> None:
    """Refuse images that are smaller than a patch.

    Raises:
        ValueError: they are.
    """
    if min(shape[:2]) + 2 * pad < SIDE:
        raise ValueError(f"patches of {SIDE}×{SIDE} do not fit images of {shape[0]}×{shape[1]}; use larger images")


def normalised(pixels: Pixels, pad: int, floor: int) -> Singles:
    """Return all patches at stride 1, normalised for contrast, as whole numbers from −127 to 127.

    Args:
        pixels: uint8 (n, height, width, channels).
        pad: rows and columns of zeros around each image.
        floor: added to the variance of a patch.

    Returns:
        float32 (k·k·channels, rows, columns, n): what is done to all patches is done to long rows of numbers.
    """
    n, height, width, channels = pixels.shape
    rows, columns = height + 2 * pad - SIDE + 1, width + 2 * pad - SIDE + 1
    padded = np.zeros((channels, height + 2 * pad, width + 2 * pad, n), np.float32)
    padded[:, pad : pad + height, pad : pad + width] = pixels.transpose(3, 1, 2, 0)
    patches = np.empty((channels, SIDE, SIDE, rows, columns, n), np.float32)
    for row in range(SIDE):
        for column in range(SIDE):
            patches[:, row, column] = padded[:, row : row + rows, column : column + columns]
    patches = patches.reshape(-1, rows, columns, n)
    length = len(patches)
    # sums of at most 108 products of 16 bits: below 2²⁴, hence exact in any order
    total = patches.sum(axis=0).astype(np.float64)
    squares = np.einsum("drcn,drcn->rcn", patches, patches).astype(np.float64)
    inverse = CONTRAST * length / np.sqrt(length * squares - total * total + length * length * floor)
    patches *= inverse.astype(np.float32)
    patches -= (total * inverse / length).astype(np.float32)
    np.rint(patches, out=patches)
    np.maximum(patches, -LARGEST, out=patches)
    np.minimum(patches, LARGEST, out=patches)
    return patches


def cell_starts(positions: int, cells: int) -> tuple[list[int], int]:
    """Return where the cells along an axis begin, and their width: half of a cell overlaps if there are many."""
    width = math.ceil(positions / cells) if cells < 4 else round(2 * positions / (cells + 1))
    width = max(1, min(width, positions))
    last = positions - width
    return [last * i // max(1, cells - 1) for i in range(cells)], width


def cell_matrix(positions: int, cells: int) -> Singles:
    """Return which positions along an axis belong to which cell, float32 (cells, positions) of zeros and ones."""
    starts, width = cell_starts(positions, cells)
    matrix = np.zeros((cells, positions), np.float32)
    for row, start in zip(matrix, starts, strict=True):
        row[start : start + width] = 1
    return matrix


@dataclass(frozen=True)
class PatchesRecipe:
    """How the map is learnt from a sample of images.

    Attributes:
        n_filters: the number of filters, F.
        cells: cells per axis; None for 7 in grey and 2 in colour.
        mirror: whether the responses to the mirrored image are added.
        floor: added to the variance of a patch; None for 1,000 in grey and 50 in colour.
        smoothing: share of the mean eigenvalue that is added to all in whitening.
        threshold: responses count from this many deviations on.
    """

    n_filters: int
    cells: int | None = None
    mirror: bool = False
    floor: int | None = None
    smoothing: float | None = None
    threshold: float | None = None

    rows: ClassVar[int] = SAMPLE

    def n_features(self, shape: Shape) -> int:
        """Return two per filter and cell."""
        return 2 * self.n_filters * self._cells(shape) ** 2

    def _cells(self, shape: Shape) -> int:
        return self.cells or (7 if shape[2] == 1 else 2)

    def learn(self, sample: Pixels, seed: int) -> Patches:
        """Learn filters, thresholds and scales.

        Args:
            sample: uint8 (n, height, width, channels), images in random order.
            seed: of the choice of patches and of the first centroids.
        """
        grey = sample.shape[3] == 1
        pad = 2 if grey else 0
        check_shape(sample.shape[1:], pad)
        floor = self.floor or (1000 if grey else 50)
        rng = np.random.default_rng([seed, *b"patches"])
        z = _some_patches(sample, pad, floor, rng)
        smoothing = self.smoothing if self.smoothing is not None else (0.5 if grey else 0.2)
        filters, offsets = learn_filters(z, self.n_filters, smoothing, rng)
        responses = z.astype(np.float32) @ filters.T.astype(np.float32) - offsets
        deviation = _deviation(responses)
        threshold = self.threshold if self.threshold is not None else (1.0 if grey else 0.4)
        low = np.rint(threshold * deviation).astype(np.int32)
        high = low + np.maximum(1, np.rint(12 * deviation)).astype(np.int32)
        cells = self._cells(sample.shape[1:])
        unscaled = np.ones(2 * self.n_filters, np.int64)
        first = Patches(pad, cells, self.mirror, floor, filters, offsets, low, high, unscaled)
        pooled = first.pooled(sample[:SCALED])
        largest = np.quantile(pooled.reshape(-1, pooled.shape[-1]).astype(np.float32), 0.999, axis=0)
        scales = np.maximum(1, np.ceil(largest)).astype(np.int64)
        return Patches(pad, cells, self.mirror, floor, filters, offsets, low, high, scales)


SCALED = 2048
"""Images whose responses decide the scales, at most."""
MOST_PATCHES = 60_000
"""Patches that filters are learnt from."""


def _some_patches(sample: Pixels, pad: int, floor: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return normalised patches at random places of the sample, int8 (n, k·k·channels)."""
    per_image = math.ceil(MOST_PATCHES / len(sample))
    found = []
    for start in range(0, len(sample), 64):
        patches = normalised(sample[start : start + 64], pad, floor)
        length, _, _, n = patches.shape
        flat = patches.reshape(length, -1, n)
        chosen = rng.integers(0, flat.shape[1], (n, per_image))
        some = flat[:, chosen, np.arange(n)[:, None]].reshape(length, -1).T
        found.append(np.ascontiguousarray(some))
    return np.concatenate(found)[:MOST_PATCHES].astype(np.int8)


def _deviation(responses: Singles) -> Floats:
    """Return the standard deviation of each column of whole numbers, float64 (F,), from exact sums."""
    total = responses.sum(axis=0, dtype=np.int64)
    squares = np.einsum("nf,nf->f", responses, responses, dtype=np.int64, casting="unsafe")
    mean = total / len(responses)
    deviation: Floats = np.sqrt(np.maximum(0, squares / len(responses) - mean * mean))
    return deviation
