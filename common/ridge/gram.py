"""The product ZᵀZ of a block of images, which is nearly all the work there is: two ways to do it with threads."""

from __future__ import annotations

import heapq
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import NamedTuple, Protocol

import numpy as np

from common.arrays import Floats, Singles

BLOCK_ROWS = 1024
"""Rows whose float32 Gram matrix is exact.

Shifted by 128, features lie in [-128, 127], so that a sum of 1,024 products stays within 1,024·128² = 2²⁴, the
last integer below which float32 holds them all. Unshifted it would be 258 rows (258·255² < 2²⁴), and four times
as many small products to add up in float64.
"""


class GramProduct(Protocol):
    """A way to add the products of blocks of rows to a Gram matrix.

    Attributes:
        rows: of the blocks it is given, at most BLOCK_ROWS.
    """

    @property
    def rows(self) -> int:
        """See above."""
        ...

    def add(self, z: Singles, gram: Floats) -> None:
        """Add ZᵀZ to the upper half of `gram`, float64 (d, d), or to all of it; z is float32 (n, d)."""
        ...

    def complete(self, gram: Floats) -> None:
        """Fill in what add() left out."""
        ...


class BlasProduct:
    """One product for BLAS, on whose threads it runs.

    Args:
        d: columns of z.
    """

    rows = BLOCK_ROWS

    def __init__(self, d: int) -> None:
        self._product = np.empty((d, d), np.float32)

    def add(self, z: Singles, gram: Floats) -> None:
        """Add ZᵀZ to all of `gram`."""
        # numpy hands a matrix times its own transpose to syrk, which does half the work
        np.matmul(z.T, z, out=self._product)
        gram += self._product

    def complete(self, gram: Floats) -> None:
        """Nothing is missing."""


SMALLEST_TILE = 32
"""Columns of a tile below which a product is too small for BLAS to be fast."""


class Tile(NamedTuple):
    """How large the tiles of a TiledProduct are."""

    rows: int
    columns: int


def even_tile(d: int, threads: int) -> Tile:
    """Tiles that give all threads the same to do, and none of them small products: as many stripes as threads.

    With k stripes there are k(k − 1)/2 tiles off the diagonal and k on it, which are half the work: k²/2 in all,
    which k threads can share out evenly.
    """
    return Tile(BLOCK_ROWS, max(SMALLEST_TILE, ceil(d / threads)))


class TiledProduct:
    """The upper half of ZᵀZ in square tiles, dealt out to threads of which each has a BLAS of one thread.

    A tile is multiplied and added to the sum while it is in a core's own cache, and additions are parallel too.

    Args:
        d: columns of z.
        tile: rows of the blocks, at most BLOCK_ROWS, and columns of a tile.
        threads: how many; BLAS must be limited to one thread (threads.limit_blas) while this works.
    """

    def __init__(self, d: int, tile: Tile, threads: int) -> None:
        if not 1 <= tile.rows <= BLOCK_ROWS:
            raise ValueError(f"{tile.rows} rows: products of more than {BLOCK_ROWS} would not be exact")
        self.rows = tile.rows
        edges = [slice(start, min(start + tile.columns, d)) for start in range(0, d, tile.columns)]
        tiles = [(i, j) for n, i in enumerate(edges) for j in edges[n:]]
        self._off_diagonal = [(i, j) for i, j in tiles if i is not j]
        self._shares = _even_shares(tiles, min(threads, len(tiles)))
        self._buffers = [np.empty(tile.columns**2, np.float32) for _ in self._shares]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def add(self, z: Singles, gram: Floats) -> None:
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
        """Mirror the upper half."""
        for i, j in self._off_diagonal:
            gram[j, i] = gram[i, j].T


def _even_shares(tiles: list[tuple[slice, slice]], shares: int) -> list[list[tuple[slice, slice]]]:
    """Deal out tiles, the costly ones first, each to whoever has least to do so far."""

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
