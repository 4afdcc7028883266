"""Products of features with weights of 8 bits, exact and a batch of rows at a time: the work of most stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features
from common.blas import in_threads
from common.features.feature_map import FieldsOnly
from common.int8 import MOST_INNER, SHIFT, int8_kernel

COLUMNS = 1024
"""Columns of numbers from −128 to 127 whose products float32 sums exactly: 1,024·128² = 2²⁴."""

BLOCK, BATCH_ROWS = 512, 1024
"""Columns of weights, and rows of features, whose product is computed at once by each thread."""

PIECE_ROWS = 128
"""Rows of such a product that become features at once: 256 KiB of it, which stay in the cache."""

FEWEST_WEIGHTS = 1 << 18
"""Weights from which products of 8-bit integers save more than importing their library costs."""


Finish = Callable[[slice, slice, NDArray[np.int32]], Features]
"""Turns products into features: takes their rows and columns, and the products, which it may overwrite."""


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
        dtype = np.float32 if self._int8 is None else np.int8
        starts = range(0, self.n_outputs, BLOCK)
        columns = [slice(start, min(start + BLOCK, self.n_outputs)) for start in starts]
        self._blocks = [(own, np.array(weights[own].T, dtype, order="C")) for own in columns]

    def __call__(self, x: Features) -> NDArray[np.int32]:
        """Return (x − SHIFT)·weightsᵀ of uint8 (n, d), int32 (n, D)."""
        products = np.empty((len(x), self.n_outputs), np.int32)
        for columns, own in self._of_blocks(x):
            products[:, columns] = own
        return products

    def _of_blocks(self, x: Features) -> Iterator[tuple[slice, NDArray[np.int32]]]:
        """Yield columns and their products, block by block; the next product overwrites the last."""
        buffer = np.empty(len(x) * BLOCK, np.int32)
        left: NDArray[Any] = np.ascontiguousarray(x) if self._int8 else shifted(x).astype(np.float32)
        for columns, weights in self._blocks:
            products = buffer[: len(x) * weights.shape[1]].reshape(len(x), weights.shape[1])
            yield columns, self._multiply(left, weights, products)

    def _multiply(self, left: NDArray[Any], weights: NDArray[Any], out: NDArray[np.int32]) -> NDArray[np.int32]:
        if self._int8 is not None:
            return self._int8.multiply(left, weights, out)
        out[...] = 0
        for start in range(0, left.shape[1], COLUMNS):
            inner = slice(start, start + COLUMNS)
            out += (left[:, inner] @ weights[inner]).astype(np.int32)
        return out

    def features(self, x: Features, finish: Finish) -> Features:
        """Compute features of rows from their products, in as many threads as BLAS has.

        Args:
            x: uint8 (n, d).
            finish: turns products of some rows with some of the weights into features.

        Returns:
            uint8 (n, D).
        """
        out = np.empty((len(x), self.n_outputs), np.uint8)

        def batch(start: int) -> None:
            for columns, products in self._of_blocks(x[start : start + BATCH_ROWS]):
                for first in range(0, len(products), PIECE_ROWS):
                    piece = products[first : first + PIECE_ROWS]
                    rows = slice(start + first, start + first + len(piece))
                    out[rows, columns] = finish(rows, columns, piece)

        in_threads(batch, range(0, len(x), BATCH_ROWS))
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
