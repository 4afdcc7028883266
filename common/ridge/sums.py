"""Parts of every sum of moments: rows that wait for a product, and sums per class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Floats, Indices, Labels
from common.int8 import SHIFT, int8_kernel
from common.ridge.tiles import BLOCK_ROWS, BlockProduct


class ShiftedRows:
    """Gathers rows of features, shifted by 128, until they fill a product.

    So every product but the last has the largest allowed size, however small the blocks that arrive.

    Args:
        product: says how many rows fill it, and their type.
        d: the number of features.
        use: called with z (n, d) and labels, int64 (n,), both of which it must not keep.
    """

    def __init__(self, product: BlockProduct, d: int, use: Callable[[NDArray[Any], Labels], None]) -> None:
        self._z = np.empty((product.rows, d), product.dtype)
        self._labels = np.empty(product.rows, np.int64)
        self._use = use
        self._waiting = 0

    def add(self, x: Features, labels: Labels, rows: Indices | None = None) -> None:
        """Add images.

        Args:
            x: features, uint8 (n, d).
            labels: int64 (n,).
            rows: positions of the images to add, int64; None for all. They are copied one product at a time.
        """
        n, taken = len(x) if rows is None else len(rows), 0
        while taken < n:
            room = slice(taken, taken + len(self._z) - self._waiting)
            chosen = room if rows is None else rows[room]
            block = x[chosen]
            where = slice(self._waiting, self._waiting + len(block))
            # Flipping the top bit subtracts 128 in int8 arithmetic, and a cast to float32 is vectorised.
            self._z[where] = (block ^ np.uint8(SHIFT)).view(np.int8)
            self._labels[where] = labels[chosen]
            self._waiting = where.stop
            taken += len(block)
            if self._waiting == len(self._z):
                self.flush()

    def flush(self) -> None:
        """Use the rows that wait."""
        if self._waiting:
            self._use(self._z[: self._waiting], self._labels[: self._waiting])
            self._waiting = 0


class ClassSums:
    """Accumulates all moments but the Gram matrix.

    With z = x − s for the shift s, and per class c the sum Z_c of its n_c images:

        (XᵀY)_c = 2 Σ_{i in c} x_i − Σx = 2 (Z_c + n_c s) − Σx

    Args:
        d: the number of features.
        n_classes: the number of classes, whether or not the images show all of them.

    Attributes:
        n: the number of images.
    """

    def __init__(self, d: int, n_classes: int) -> None:
        self.n = 0
        self._sums = np.zeros((n_classes, d))
        self._counts = np.zeros(n_classes)

    def add(self, z: NDArray[Any], labels: Labels) -> None:
        """Add images: z (n, d), labels int64 (n,)."""
        # Only classes among these rows: the cost depends on the rows, not on the number of classes.
        for start in range(0, len(z), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            present, column = np.unique(labels[rows], return_inverse=True)
            self._sums[present] += _sums_by(column, len(present), z[rows])
            self._counts[present] += np.bincount(column)
        self.n += len(z)

    def shifted_sum(self) -> Floats:
        """Return s Σz, float64 (d,)."""
        return np.asarray(SHIFT * self._sums.sum(axis=0))  # because every image has one class

    def result(self) -> tuple[Floats, Floats, Floats]:
        """Return Σx, Σy and XᵀY, as in Moments. Call this once, last."""
        sums = self._sums
        sums += SHIFT * self._counts[:, None]
        sum_x = sums.sum(axis=0)
        sums *= 2
        sums -= sum_x
        return sum_x, 2 * self._counts - self.n, np.ascontiguousarray(sums.T)


def _sums_by(group: Indices, n_groups: int, z: NDArray[Any]) -> NDArray[Any]:
    """Return the exact sum of each group's rows of z (n, d), by a product with indicators: (n_groups, d)."""
    kernel = int8_kernel() if z.dtype == np.int8 else None
    zero, number = (0, np.float32) if kernel is None else (SHIFT, np.uint8)
    indicators = np.full((n_groups, len(group)), zero, number)
    indicators[group, np.arange(len(group))] = zero + 1
    return indicators @ z.astype(np.float32, copy=False) if kernel is None else kernel.multiply(indicators, z)
