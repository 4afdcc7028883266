"""Similarities to landmarks: the columns of a kernel matrix, which Nyström's method uses (Williams & Seeger 2001).

Squared distances between features of 8 bits are whole numbers. They are summed exactly and looked up in a table of
the Gaussian kernel in 8 bits, so that an image has the same features alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Floats

KIND = "landmarks"

COLUMNS = 1024
"""Columns whose products with z from −128 to 127 float32 sums exactly: 1,024·128² = 2²⁴."""
SHIFT = 128
ENTRIES = 1 << 16
"""Entries of the table."""

BATCH_ROWS = 1024
"""Rows whose distances are held at once."""


@dataclass(frozen=True)
class Landmarks:
    """The map from rows of features to similarities.

    Attributes:
        rows: uint8 (D, d), the landmarks.
        shift: squared distances are divided by 2 to the power of it, before they are looked up.
        table: uint8 (ENTRIES,), similarities from 255 down.
    """

    rows: NDArray[np.uint8]
    shift: int
    table: NDArray[np.uint8]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return landmarks and table."""
        return {"rows": self.rows, "table": self.table}

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Landmarks:
        """Rebuild the map."""
        return cls(arrays["rows"], int(described["shift"]), arrays["table"])

    @cached_property
    def _shifted(self) -> tuple[NDArray[np.float32], Floats]:
        z = (self.rows ^ np.uint8(SHIFT)).view(np.int8).astype(np.float32)
        return z, squares(z)

    def __call__(self, x: Features) -> Features:
        """Compute similarities: uint8 (n, d) to uint8 (n, D)."""
        out = np.empty((len(x), len(self.rows)), np.uint8)
        for start in range(0, len(x), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            index = squared_distances(x[rows], *self._shifted).astype(np.int64) >> self.shift
            out[rows] = self.table[np.minimum(index, ENTRIES - 1)]
        return out


def squares(z: NDArray[np.float32]) -> Floats:
    """Return the exact sums of squares of rows, float64 (n,)."""
    sums: Floats = np.einsum("nd,nd->n", z, z, dtype=np.float64)
    return sums


def squared_distances(x: Features, z: NDArray[np.float32], z_squares: Floats) -> Floats:
    """Return exact squared distances of rows, float64 (n, D).

    Args:
        x: features, uint8 (n, d).
        z: landmarks minus SHIFT, float32 (D, d).
        z_squares: their sums of squares.
    """
    own = (x ^ np.uint8(SHIFT)).view(np.int8).astype(np.float32)
    products = np.zeros((len(x), len(z)))
    for start in range(0, own.shape[1], COLUMNS):
        columns = slice(start, start + COLUMNS)
        products += own[:, columns] @ z[:, columns].T
    distances: Floats = squares(own)[:, None] + z_squares - 2 * products
    return distances


def learn(x: Features, n_landmarks: int, width: float, seed: int) -> Landmarks:
    """Choose landmarks among rows, and a width by the median of their squared distances.

    Args:
        x: features of a sample of training images, uint8 (n, d).
        n_landmarks: the number of landmarks; all rows if there are fewer.
        width: the kernel is exp(−distance² / (width · median)).
        seed: of the choice.
    """
    rng = np.random.default_rng([seed, *b"landmarks"])
    rows = x[np.sort(rng.permutation(len(x))[:n_landmarks])]
    few = (rows[:1024] ^ np.uint8(SHIFT)).view(np.int8).astype(np.float32)
    distances = squared_distances(rows[:1024], few, squares(few))
    median = float(np.median(distances[~np.eye(len(few), dtype=bool)]))
    scale = max(1.0, width * median)
    furthest = 8 * scale  # where 255·exp(−8) rounds to 0
    shift = max(0, int(np.ceil(np.log2(max(1.0, furthest / ENTRIES)))))
    table = np.rint(255 * np.exp(-np.arange(ENTRIES) * 2.0**shift / scale)).astype(np.uint8)
    return Landmarks(rows, shift, table)
