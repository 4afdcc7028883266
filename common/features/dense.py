"""Products of features with weights of 8 bits, exact and a batch of rows at a time: the work of most stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features
from common.blas import in_threads
from common.features.feature_map import FieldsOnly
from common.int8 import MOST_INNER, SHIFT, int8_kernel

COLUMNS = 1024
"""Columns of numbers from −128 to 127 whose products float32 sums exactly: 1,024·128² = 2²⁴."""

BATCH_BYTES, PIECE_BYTES = 32 << 20, 256 << 10
"""The size of the 32-bit products that each thread holds at once, and of the piece that stays in its cache."""

FEWEST_WEIGHTS = 1 << 18
"""Weights from which products of 8-bit integers save more than importing their library costs."""


def shifted(x: Features) -> NDArray[np.int8]:
    """Return x − SHIFT: flipping the top bit subtracts 128 in the arithmetic of int8."""
    return (x ^ np.uint8(SHIFT)).view(np.int8)


class DenseProduct:
    """The product of shifted features with weights.

    Args:
        weights: int8 (D, d).
    """

    def __init__(self, weights: NDArray[np.int8]) -> None:
        self.n_outputs, n_inputs = weights.shape
        if n_inputs > MOST_INNER:
            raise ValueError(f"{n_inputs:,} features, of {MOST_INNER:,} allowed in front of a stage")
        self._int8 = int8_kernel() if weights.size >= FEWEST_WEIGHTS else None
        self._weights = np.ascontiguousarray(weights.T)
        if self._int8 is None:
            self._weights = self._weights.astype(np.float32)

    def __call__(self, x: Features) -> NDArray[np.int32]:
        """Return (x − SHIFT)·weightsᵀ of uint8 (n, d), int32 (n, D)."""
        if self._int8 is not None:
            return self._int8.multiply(np.ascontiguousarray(x), self._weights)
        z = shifted(x).astype(np.float32)
        products = np.zeros((len(x), self.n_outputs), np.int32)
        for start in range(0, z.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            products += (z[:, columns] @ self._weights[columns]).astype(np.int32)
        return products

    def features(self, x: Features, finish: Callable[[Features, NDArray[np.int32]], Features]) -> Features:
        """Compute features of rows from their products, in as many threads as BLAS has.

        Args:
            x: uint8 (n, d).
            finish: turns some of the rows and their products, which it may overwrite, into features.

        Returns:
            uint8 (n, D).
        """
        out = np.empty((len(x), self.n_outputs), np.uint8)
        size, piece = (max(1, n_bytes // (4 * self.n_outputs)) for n_bytes in (BATCH_BYTES, PIECE_BYTES))

        def batch(start: int) -> None:
            products = self(x[start : start + size])
            for first in range(0, len(products), piece):
                rows = slice(start + first, min(start + first + piece, start + len(products)))
                out[rows] = finish(x[rows], products[first : first + piece])

        in_threads(batch, range(0, len(x), size))
        return out


@dataclass(frozen=True)
class DenseStage(FieldsOnly):
    """The part that stages with weights and offsets have in common.

    Attributes:
        weights: int8 (D, d).
        offsets: int32 (D,).
    """

    weights: NDArray[np.int8]
    offsets: NDArray[np.int32]

    @property
    def n_outputs(self) -> int:
        """D, one feature per row of weights."""
        return len(self.weights)

    @property
    def n_inputs(self) -> int:
        """The d features that a row of weights takes."""
        return int(self.weights.shape[1])

    @cached_property
    def product(self) -> DenseProduct:
        """The product with the weights, prepared once per process."""
        return DenseProduct(self.weights)
