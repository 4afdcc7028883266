"""The product ZᵀZ of a block of images, which is nearly all the work of a fit: four ways to compute it."""

from __future__ import annotations

import heapq
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from common.blas import blas_threads
from common.int8 import NAME, int8_kernel
from common.ridge.cuda import TorchProduct, gpu
from common.ridge.tiles import BLOCK_ROWS, BlockProduct, Int8Tiles, Tiling, even_side


class GramProduct(BlockProduct, Protocol):
    """Adds products of blocks of rows to a Gram matrix."""

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to one half of `gram`, float64 (d, d), or to all of it; z is (n, d), from −128 to 127."""
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
    """Computes the lower half of ZᵀZ in square tiles, dealt out to threads that each use a BLAS of one thread.

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
        tiling = Tiling(d, tile.columns)
        tiles = [(tiling.stripe(i), tiling.stripe(j)) for i, j in tiling.lower()]
        self._off_diagonal = [(i, j) for i, j in tiles if i != j]
        self._shares = _even_shares(tiles, min(threads, len(tiles)))
        self._buffers = [np.empty(tile.columns**2, np.float32) for _ in self._shares]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to the lower half of `gram`."""

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
        """Mirror the lower half to the upper."""
        for i, j in self._off_diagonal:
            gram[j, i] = gram[i, j].T


class Int8Product:
    """Computes half of ZᵀZ in tiles by products of 8-bit integers, dealt out to threads.

    Args:
        d: the number of columns of z.
        threads: the number of threads; None for as many as BLAS has.

    Raises:
        ValueError: this process has no kernel (int8.int8_kernel).
    """

    name = NAME
    dtype = np.int8

    def __init__(self, d: int, threads: int | None = None) -> None:
        self._tiling = Tiling(d, even_side(d))
        self._product = Int8Tiles(self._tiling, blas_threads() if threads is None else threads)
        self.rows = self._product.rows

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to the lower half of `gram`; z is int8 (n, d)."""
        self._product.add(z, {(i, j): self._tile(gram, i, j) for i, j in self._tiling.lower()})

    def complete(self, gram: Floats) -> None:
        """Mirror the lower half to the upper."""
        for i, j in self._tiling.lower():
            if i != j:
                self._tile(gram, j, i)[...] = self._tile(gram, i, j).T

    def _tile(self, gram: Floats, i: int, j: int) -> Floats:
        return gram[self._tiling.stripe(i), self._tiling.stripe(j)]


FEWEST_INT8_FEATURES = 512
"""Features from which products of 8-bit integers save more than importing their library costs."""

FEWEST_GPU_FEATURES = 2048
"""Features from which a GPU saves more than importing torch costs."""


def best_product(d: int, threads: int | None = None) -> GramProduct:
    """Return the fastest product for d features in this process.

    Args:
        d: the number of features.
        threads: the number of threads; None for as many as BLAS has.
    """
    if d >= FEWEST_GPU_FEATURES and (device := gpu()) is not None:
        return TorchProduct(d, device)
    if d >= FEWEST_INT8_FEATURES and int8_kernel() is not None:
        return Int8Product(d, threads)
    return BlasProduct(d)


def _even_shares(tiles: list[tuple[slice, slice]], shares: int) -> list[list[tuple[slice, slice]]]:
    """Deal out tiles, costly ones first, each to the thread with the least work so far."""

    def cost(tile: tuple[slice, slice]) -> float:
        rows, columns = tile
        area = float((rows.stop - rows.start) * (columns.stop - columns.start))
        return area / 2 if rows == columns else area  # BLAS does half of a symmetric product

    dealt: list[list[tuple[slice, slice]]] = [[] for _ in range(shares)]
    loads = [(0.0, share) for share in range(shares)]
    for tile in sorted(tiles, key=cost, reverse=True):
        load, share = heapq.heappop(loads)
        dealt[share].append(tile)
        heapq.heappush(loads, (load + cost(tile), share))
    return dealt
