"""The product ZᵀZ of a block of images, which is nearly all the work of a fit: three ways to compute it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from common.blas import blas_threads
from common.int8 import NAME, SHIFT, int8_kernel

BLOCK_ROWS = 1024
"""The largest number of rows whose float32 Gram matrix is exact.

Shifted by 128, features lie in [−128, 127]. So a sum of 1,024 products stays within 1,024·128² = 2²⁴, and float32
holds all integers up to 2²⁴. Without the shift it would be 258 rows (258·255² < 2²⁴), and four times as many small
products to add up in float64.
"""


class GramProduct(Protocol):
    """Adds products of blocks of rows to a Gram matrix."""

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

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to the upper half of `gram`, float64 (d, d), or to all of it; z is (n, d), from −128 to 127."""
        ...

    def complete(self, gram: Floats) -> None:
        """Fill in the half that add() left out. Call this once, last."""
        ...


class BlasProduct:
    """Leaves the whole product to BLAS and its threads.

    Args:
        d: the number of columns of z.
    """

    name = "BLAS in float32"
    rows = BLOCK_ROWS
    dtype = np.float32

    def __init__(self, d: int) -> None:
        self._product = np.empty((d, d), np.float32)

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to all of `gram`."""
        # NumPy passes a matrix times its own transpose to syrk, which does half the work.
        np.matmul(z.T, z, out=self._product)
        gram += self._product

    def complete(self, gram: Floats) -> None:
        """Do nothing: add() leaves nothing out."""


SMALLEST_TILE = 32
"""The smallest number of columns per tile with which BLAS is still fast."""


class Tile(NamedTuple):
    """The size of the tiles of a TiledProduct."""

    rows: int
    columns: int


def even_tile(d: int, threads: int) -> Tile:
    """Return tiles that give all threads the same amount of work: as many stripes of columns as threads.

    With k stripes there are k(k − 1)/2 tiles off the diagonal, and k tiles of half the work on it. That is k²/2 in
    all, which k threads can share evenly.
    """
    return Tile(BLOCK_ROWS, max(SMALLEST_TILE, ceil(d / threads)))


class TiledProduct:
    """Computes the upper half of ZᵀZ in square tiles, dealt out to threads that each use a BLAS of one thread.

    A tile is multiplied and added to the sum while it is in the cache of a core, and additions are parallel too.

    Args:
        d: the number of columns of z.
        tile: rows of the blocks, at most BLOCK_ROWS, and columns of a tile.
        threads: the number of threads; BLAS must be limited to one thread (blas.limit_blas) while this works.
    """

    name = "tiles of BLAS in float32"
    dtype = np.float32

    def __init__(self, d: int, tile: Tile, threads: int) -> None:
        if not 1 <= tile.rows <= BLOCK_ROWS:
            raise ValueError(f"{tile.rows} rows: products of more than {BLOCK_ROWS} would not be exact")
        self.rows = tile.rows
        tiles = _tiles(_stripes(d, tile.columns))
        self._off_diagonal = [(i, j) for i, j in tiles if i is not j]
        self._shares = _even_shares(tiles, min(threads, len(tiles)))
        self._buffers = [np.empty(tile.columns**2, np.float32) for _ in self._shares]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to the upper half of `gram`."""

        def work(thread: int) -> None:
            for i, j in self._shares[thread]:
                shape = i.stop - i.start, j.stop - j.start
                product = self._buffers[thread][: shape[0] * shape[1]].reshape(shape)
                np.matmul(z[:, i].T, z[:, j], out=product)
                gram[i, j] += product

        threads = range(len(self._shares))
        for _ in map(work, threads) if self._pool is None else self._pool.map(work, threads):
            pass

    def complete(self, gram: Floats) -> None:
        """Mirror the upper half to the lower."""
        for i, j in self._off_diagonal:
            gram[j, i] = gram[i, j].T


INT8_COLUMNS = 512
"""The largest number of columns per tile of an Int8Product."""

FEWEST_INT8_ROWS, MOST_INT8_ROWS = 1024, 8192
"""Rows per block of an Int8Product: so many that adding a product to the sum costs little beside multiplying."""

TRANSPOSED_ROWS = 16
"""Rows that are transposed at once, so that they stay in the cache."""


class Int8Product:
    """Computes the upper half of ZᵀZ in tiles by products of 8-bit integers, dealt out to threads.

    Args:
        d: the number of columns of z.
        threads: the number of threads; None for as many as BLAS has.

    Raises:
        ValueError: this process has no kernel (int8.int8_kernel).
    """

    name = NAME
    dtype = np.int8

    def __init__(self, d: int, threads: int | None = None) -> None:
        kernel = int8_kernel()
        if kernel is None:
            raise ValueError("no exact product of 8-bit integers here")
        self._kernel = kernel
        self.rows = min(MOST_INT8_ROWS, max(FEWEST_INT8_ROWS, 2 * d))
        self._stripes = _stripes(d, ceil(d / ceil(d / INT8_COLUMNS)))
        self._tiles = _tiles(self._stripes)
        threads = blas_threads() if threads is None else threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to the upper half of `gram`; z is int8 (n, d)."""
        right: dict[int, NDArray[np.int8]] = {}
        left: dict[int, NDArray[np.uint8]] = {}

        def prepare(stripe: slice) -> None:
            own = np.ascontiguousarray(z[:, stripe])
            right[stripe.start], left[stripe.start] = own, _transposed(own.view(np.uint8)) ^ np.uint8(SHIFT)

        def work(tile: tuple[slice, slice]) -> None:
            i, j = tile
            gram[i, j] += self._kernel.multiply(left[i.start], right[j.start])

        self._each(prepare, self._stripes)
        self._each(work, self._tiles)

    def complete(self, gram: Floats) -> None:
        """Mirror the upper half to the lower."""
        for i, j in self._tiles:
            if i is not j:
                gram[j, i] = gram[i, j].T

    def _each(self, work: Callable[[Any], None], items: list[Any]) -> None:
        for _ in map(work, items) if self._pool is None else self._pool.map(work, items):
            pass


FEWEST_INT8_FEATURES = 512
"""Features from which products of 8-bit integers save more than importing their library costs."""


def best_product(d: int, threads: int | None = None) -> GramProduct:
    """Return the fastest product for d features in this process.

    Args:
        d: the number of features.
        threads: the number of threads; None for as many as BLAS has.
    """
    if d >= FEWEST_INT8_FEATURES and int8_kernel() is not None:
        return Int8Product(d, threads)
    return BlasProduct(d)


def _transposed(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out = np.empty(x.shape[::-1], np.uint8)
    for start in range(0, len(x), TRANSPOSED_ROWS):
        rows = slice(start, start + TRANSPOSED_ROWS)
        out[:, rows] = x[rows].T
    return out


def _stripes(d: int, columns: int) -> list[slice]:
    """Cut d columns into stripes."""
    return [slice(start, min(start + columns, d)) for start in range(0, d, columns)]


def _tiles(stripes: list[slice]) -> list[tuple[slice, slice]]:
    """Return the pairs of stripes that make the upper half of a square."""
    return [(i, j) for n, i in enumerate(stripes) for j in stripes[n:]]


def _even_shares(tiles: list[tuple[slice, slice]], shares: int) -> list[list[tuple[slice, slice]]]:
    """Deal out tiles, costly ones first, each to the thread with the least work so far."""

    def cost(tile: tuple[slice, slice]) -> float:
        rows, columns = tile
        area = float((rows.stop - rows.start) * (columns.stop - columns.start))
        return area / 2 if rows is columns else area  # BLAS does half of a symmetric product

    dealt: list[list[tuple[slice, slice]]] = [[] for _ in range(shares)]
    loads = [(0.0, share) for share in range(shares)]
    for tile in sorted(tiles, key=cost, reverse=True):
        load, share = heapq.heappop(loads)
        dealt[share].append(tile)
        heapq.heappush(loads, (load + cost(tile), share))
    return dealt
