"""Tiles of a symmetric matrix, and products of blocks of images that are added to them.

A matrix in tiles need not lie in one process: each process keeps the tiles that are its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from common.int8 import NAME, int8_kernel

BLOCK_ROWS = 1024
"""The largest number of rows whose float32 Gram matrix is exact.

Shifted by 128, features lie in [−128, 127]. So a sum of 1,024 products stays within 1,024·128² = 2²⁴, and float32
holds all integers up to 2²⁴. Without the shift it would be 258 rows (258·255² < 2²⁴), and four times as many small
products to add up in float64.
"""

FEWEST_INT8_ROWS, MOST_INT8_ROWS = 1024, 8192
"""Rows per product of 8-bit integers: so many that adding it to the sum costs little beside multiplying."""

BLOCK_BYTES = 128 << 20
"""The largest size of a block of rows, which sums keep and products copy, with more than the fewest rows."""

INT8_SIDE = 512
"""The largest number of columns per tile with which a product of 8-bit integers stays in the cache."""

MANY_PARTS = 8
"""Parts of the work per thread from which it does not matter that the last of them are uneven."""

Place = tuple[int, int]
"""The row and the column of a tile, in tiles."""


class Tiling(NamedTuple):
    """A square matrix, cut into stripes of columns and into tiles where stripes cross.

    Attributes:
        d: the number of columns.
        side: the number of columns of a stripe, except perhaps the last.
    """

    d: int
    side: int

    @property
    def n(self) -> int:
        """The number of stripes."""
        return math.ceil(self.d / self.side)

    def stripe(self, i: int) -> slice:
        """Return the columns of stripe i."""
        return slice(i * self.side, min((i + 1) * self.side, self.d))

    def shape(self, place: Place) -> tuple[int, int]:
        """Return the shape of a tile."""
        rows, columns = (self.stripe(i) for i in place)
        return rows.stop - rows.start, columns.stop - columns.start

    def lower(self) -> list[Place]:
        """Return the places of the lower half of a symmetric matrix, the diagonal included, column by column."""
        return [(i, j) for j in range(self.n) for i in range(j, self.n)]


def even_side(d: int) -> int:
    """Return a side of tiles that fits the cache and leaves no narrow stripe."""
    return math.ceil(d / math.ceil(d / INT8_SIDE))


class BlockProduct(Protocol):
    """Multiplies blocks of rows."""

    @property
    def name(self) -> str:
        """The name of the product in reports."""
        ...

    @property
    def rows(self) -> int:
        """The largest number of rows per block."""
        ...

    @property
    def dtype(self) -> Any:
        """The type of the blocks."""
        ...


class TileProduct(BlockProduct, Protocol):
    """Adds products of blocks of rows to tiles of a Gram matrix."""

    def add(self, z: NDArray[Any], tiles: Mapping[Place, Floats]) -> None:
        """Add the tiles of ZᵀZ to those in `tiles`, float64; z is (n, d), from −128 to 127."""
        ...


class Int8Tiles:
    """Multiplies 8-bit integers, tiles dealt out to threads.

    Args:
        tiling: the tiles.
        threads: the number of threads.

    Raises:
        ValueError: this process has no kernel (int8.int8_kernel).
    """

    name = NAME
    dtype = np.int8

    def __init__(self, tiling: Tiling, threads: int) -> None:
        kernel = int8_kernel()
        if kernel is None:
            raise ValueError("no exact product of 8-bit integers here")
        self._kernel = kernel
        self._tiling = tiling
        self.rows = max(FEWEST_INT8_ROWS, min(MOST_INT8_ROWS, 8 * tiling.d, BLOCK_BYTES // tiling.d))
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def add(self, z: NDArray[Any], tiles: Mapping[Place, Floats]) -> None:
        """Add the tiles of ZᵀZ to those in `tiles`; z is int8 (n, d)."""
        left: dict[int, NDArray[np.uint8]] = {}
        right: dict[int, NDArray[np.int8]] = {}

        lefts, rights = {i for i, _ in tiles}, {j for _, j in tiles}

        def prepare(i: int) -> None:
            own = np.ascontiguousarray(z[:, self._tiling.stripe(i)])
            if i in rights:
                right[i] = own
            if i in lefts:
                left[i] = self._kernel.transpose(own)

        def work(part: tuple[Place, slice]) -> None:
            (i, j), rows = part
            tile = tiles[i, j][rows]
            tile += self._kernel.multiply(left[i][rows], right[j])

        self._each(prepare, lefts | rights)
        self._each(work, self._parts(tiles))

    def _parts(self, tiles: Iterable[Place]) -> list[tuple[Place, slice]]:
        """Cut tiles into as few strips of rows as give all threads the same amount of work, or nearly so."""
        places = list(tiles)
        strips = next(
            strips
            for strips in range(1, self._threads + 1)
            if len(places) * strips % self._threads == 0 or len(places) * strips >= MANY_PARTS * self._threads
        )
        rows = math.ceil(self._tiling.side / strips)
        return [(place, slice(k * rows, (k + 1) * rows)) for place in places for k in range(strips)]

    def _each(self, work: Callable[[Any], None], items: Iterable[Any]) -> None:
        for _ in map(work, items) if self._pool is None else self._pool.map(work, items):
            pass


class BlasTiles:
    """Multiplies in float32 where there is no product of 8-bit integers, each tile by BLAS and its threads.

    Args:
        tiling: the tiles.
    """

    name = "tiles of BLAS in float32"
    dtype = np.float32
    rows = BLOCK_ROWS

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling

    def add(self, z: NDArray[Any], tiles: Mapping[Place, Floats]) -> None:
        """Add the tiles of ZᵀZ to those in `tiles`; z is float32 (n, d)."""
        for (i, j), tile in tiles.items():
            tile += z[:, self._tiling.stripe(i)].T @ z[:, self._tiling.stripe(j)]


def best_tile_product(tiling: Tiling, threads: int) -> TileProduct:
    """Return the fastest product of tiles in this process."""
    return BlasTiles(tiling) if int8_kernel() is None else Int8Tiles(tiling, threads)
