"""Similarities to landmarks: the columns of a kernel matrix, which Nyström's method uses (Williams & Seeger 2001).

Squared distances between features of 8 bits are whole numbers. They are summed exactly and looked up in a table of
the Gaussian kernel in 8 bits, so that an image has the same features alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Labels
from common.features.dense import DenseProduct, shifted
from common.features.feature_map import FieldsOnly, array_digests

ENTRIES = 1 << 16
"""Entries of the table."""

WIDTH = 0.72
"""The width of the kernel, as a share of the median squared distance of landmarks."""

COMPARED = 1024
"""Landmarks whose distances decide the width, at most."""


@dataclass(frozen=True)
class Landmarks(FieldsOnly):
    """The stage that computes similarities.

    Attributes:
        rows: uint8 (D, d), the landmarks.
        shift: squared distances are divided by 2 to the power of it, before they are looked up.
        table: uint8 (ENTRIES,), similarities from 255 down.
    """

    kind: ClassVar[str] = "landmarks"

    rows: NDArray[np.uint8]
    shift: int
    table: NDArray[np.uint8]

    @property
    def n_outputs(self) -> int:
        """One per landmark."""
        return len(self.rows)

    @property
    def n_inputs(self) -> int:
        """As many as a landmark has."""
        return int(self.rows.shape[1])

    def describe(self) -> dict[str, Any]:
        """Return the shift, and the digests of landmarks and table."""
        return {"shift": self.shift, "arrays": array_digests(self.arrays())}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return landmarks and table."""
        return {"rows": self.rows, "table": self.table}

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Landmarks:
        """Rebuild the stage."""
        return cls(arrays["rows"], int(described["shift"]), arrays["table"])

    @cached_property
    def _distances(self) -> Distances:
        return Distances(self.rows)

    def __call__(self, x: Features) -> Features:
        """Compute similarities: uint8 (n, d) to uint8 (n, D)."""
        distances, own_squares = self._distances, squares(shifted(x))

        def look_up(rows: slice, columns: slice, products: NDArray[np.int32]) -> Features:
            index = of_products(own_squares[rows], distances.squares[columns], products)
            index >>= self.shift
            np.minimum(index, ENTRIES - 1, out=index)
            return self.table[index]

        return distances.product.features(x, look_up)


class Distances:
    """Exact squared distances of rows to given rows.

    Args:
        rows: uint8 (D, d).

    Attributes:
        squares: the sums of squares of the given rows, shifted: int64 (D,).
        product: the product with the given rows.
    """

    def __init__(self, rows: Features) -> None:
        z = shifted(rows)
        self.squares = squares(z)
        self.product = DenseProduct(z)

    def __call__(self, x: Features) -> NDArray[np.int64]:
        """Return the distances of uint8 (n, d) to each of the given rows, int64 (n, D)."""
        return of_products(squares(shifted(x)), self.squares, self.product(x))


def of_products(
    of_x: NDArray[np.int64], of_rows: NDArray[np.int64], products: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return squared distances ‖x − r‖² = ‖x‖² + ‖r‖² − 2 xᵀr, int64 (n, D).

    Args:
        of_x: ‖x‖², int64 (n,).
        of_rows: ‖r‖², int64 (D,).
        products: xᵀr, int32 (n, D).
    """
    distances = products.astype(np.int64)
    distances *= -2
    distances += of_rows
    distances += of_x[:, None]
    return distances


def squares(z: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return the sums of squares of rows, int64 (n,)."""
    sums: NDArray[np.int64] = np.einsum("nd,nd->n", z, z, dtype=np.int64)
    return sums


@dataclass(frozen=True)
class LandmarksRecipe:
    """How landmarks are chosen: at random among the images of the sample.

    Attributes:
        n: the number of landmarks.
        width: the kernel is exp(−distance² / (width · the median squared distance of landmarks)).
    """

    uses_images: ClassVar[bool] = True

    n: int
    width: float = WIDTH

    @property
    def rows(self) -> int:
        """One per landmark."""
        return self.n

    def learn(self, x: Features, labels: Labels, seed: int) -> Landmarks:
        """Choose landmarks, and the width by their distances; see StageRecipe.learn."""
        if len(x) < self.n:
            raise ValueError(
                f"{len(x):,} training images are too few for as many landmarks; use landmarks:{len(x)} or fewer"
            )
        rng = np.random.default_rng([seed, *b"landmarks"])
        rows = x[np.sort(rng.permutation(len(x))[: self.n])]
        few = rows[:COMPARED]
        median = float(np.median(Distances(few)(few)[~np.eye(len(few), dtype=bool)])) if len(few) > 1 else 1.0
        scale = max(1.0, self.width * median)
        furthest = 8 * scale  # where 255·exp(−8) rounds to 0
        shift = max(0, int(np.ceil(np.log2(max(1.0, furthest / ENTRIES)))))
        table = np.rint(255 * np.exp(-np.arange(ENTRIES) * 2.0**shift / scale)).astype(np.uint8)
        return Landmarks(rows, shift, table)
