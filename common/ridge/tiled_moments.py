"""Moments whose Gram matrix no single process holds: each process has some of its tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Floats, Indices, Labels
from common.int8 import SHIFT
from common.ridge.sums import ClassSums, ShiftedRows
from common.ridge.tiles import Place, TileProduct, Tiling

Tiles = dict[Place, Floats]


class TileGrid(NamedTuple):
    """The owners of tiles as a grid, as close to a square as their number allows.

    Tile (i, j) belongs to the owner in row i mod p and column j mod q: the block-cyclic layout of ScaLAPACK. So
    every owner has about as many tiles as any other, and still has its share when a factorisation has finished
    with the first of them.

    Attributes:
        rows: the number of rows, p; all of them together finish a block column, so p ≥ q.
        columns: the number of columns, q.
    """

    rows: int
    columns: int

    @classmethod
    def of(cls, size: int) -> TileGrid:
        """Arrange `size` owners."""
        columns = next(columns for columns in range(math.isqrt(size), 0, -1) if size % columns == 0)
        return cls(size // columns, columns)

    def owner(self, place: Place) -> int:
        """Return the number of the owner of a tile."""
        return place[0] % self.rows * self.columns + place[1] % self.columns

    def own(self, tiling: Tiling, owner: int) -> list[Place]:
        """Return the places of an owner's tiles in the lower half."""
        return [place for place in tiling.lower() if self.owner(place) == owner]


@dataclass(frozen=True)
class TiledMoments:
    """Moments of images, as moments.Moments, with some tiles of the Gram matrix.

    Attributes:
        n: the number of images.
        sum_x: Σx, float64 (d,).
        sum_y: Σy, float64 (n_classes,).
        cross: XᵀY, float64 (d, n_classes).
        tiles: an owner's tiles of the lower half of XᵀX.
    """

    n: int
    sum_x: Floats
    sum_y: Floats
    cross: Floats
    tiles: Tiles

    def add(self, other: TiledMoments) -> TiledMoments:
        """Return the sum; the tiles of `self` become those of the sum, because a copy may not fit into memory."""
        for place, tile in self.tiles.items():
            tile += other.tiles[place]
        return TiledMoments(
            self.n + other.n,
            self.sum_x + other.sum_x,
            self.sum_y + other.sum_y,
            self.cross + other.cross,
            self.tiles,
        )


FoldTiles = dict[int, TiledMoments]
"""Moments by the fold that images validate, as moments.FoldMoments."""


class TiledSum:
    """Accumulates moments and some tiles of the Gram matrix, as MomentsSum does with the whole.

    Args:
        tiling: the tiles of the Gram matrix.
        own: the places of these tiles.
        n_classes: the number of classes.
        product: multiplies blocks.
    """

    def __init__(self, tiling: Tiling, own: Sequence[Place], n_classes: int, product: TileProduct) -> None:
        self._tiling = tiling
        self._product = product
        self._tiles: Tiles = {place: np.zeros(tiling.shape(place)) for place in own}
        self._sums = ClassSums(tiling.d, n_classes)
        self._rows = ShiftedRows(product, tiling.d, self._use)

    def add(self, x: Features, labels: Labels, rows: Indices | None = None) -> None:
        """Add images: x uint8 (n, d), labels int64 (n,); or only those at some positions."""
        self._rows.add(x, labels, rows)

    def _use(self, z: NDArray[Any], labels: Labels) -> None:
        self._product.add(z, self._tiles)
        self._sums.add(z, labels)

    def result(self) -> TiledMoments:
        """Return the moments. Call this once, last."""
        self._rows.flush()
        n, shift_x = self._sums.n, self._sums.shifted_sum()
        for (i, j), tile in self._tiles.items():
            rows, columns = self._tiling.stripe(i), self._tiling.stripe(j)
            tile += shift_x[rows, None] + (shift_x[columns] + n * SHIFT**2)[None, :]
        return TiledMoments(n, *self._sums.result(), self._tiles)
