"""Moments whose Gram matrix no single process holds: its tiles are spread over the ranks.

Images are dealt out to ranks, and each rank computes the features of its own alone. Ranks exchange the features,
one byte each, a round at a time; then each rank adds the products of all images of the round to its own tiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from common.arrays import Features, Floats, Folds, Labels
from common.ridge.tiled_moments import FoldTiles, TiledMoments, TiledSum, TileGrid, Tiles
from common.ridge.tiles import TileProduct, Tiling
from mpi_jobs.engine.world import World


class SpreadSums:
    """Adds up the moments of all ranks' images, by fold.

    Args:
        world: the ranks.
        tiling: the tiles of the Gram matrix.
        n_classes: the number of classes.
        folds: the numbers of all folds.
        product: multiplies blocks of rows.
    """

    def __init__(
        self, world: World, tiling: Tiling, n_classes: int, folds: Sequence[int], product: TileProduct
    ) -> None:
        self._world = world
        own = TileGrid.of(world.size).own(tiling, world.rank)
        self._folds = {fold: TiledSum(tiling, own, n_classes, product) for fold in folds}
        self._room = max(1, product.rows // world.size)
        self._x = np.empty((world.size, self._room, tiling.d), np.uint8)
        self._labels = np.empty((world.size, self._room), np.int64)
        self._folds_of = np.empty((world.size, self._room), np.int16)
        self._counts = np.zeros((world.size, 2), np.int64)
        self._waiting = 0

    def add(self, x: Features, labels: Labels, folds: Folds) -> None:
        """Add images of this rank: features uint8 (n, d), labels int64 (n,), folds int16 (n,).

        Whenever enough images wait, all ranks exchange theirs. So every rank calls this as often as it has images,
        and then `finish`.
        """
        rank, taken = self._world.rank, 0
        while taken < len(x):
            block = slice(taken, taken + self._room - self._waiting)
            n = len(labels[block])
            where = slice(self._waiting, self._waiting + n)
            self._x[rank, where], self._labels[rank, where] = x[block], labels[block]
            self._folds_of[rank, where] = folds[block]
            self._waiting += n
            taken += n
            if self._waiting == self._room:
                self._exchange(more=True)

    def finish(self) -> None:
        """Exchange what is left, and take part until no rank has any more."""
        while self._exchange(more=False):
            pass

    def result(self) -> FoldTiles:
        """Return the moments by fold, without folds that have no image. Call this once, after `finish`."""
        moments = {fold: self._folds.pop(fold).result() for fold in sorted(self._folds)}
        return {fold: own for fold, own in moments.items() if own.n}

    def _exchange(self, more: bool) -> bool:
        """Add the waiting images of all ranks; return True if a rank has announced that more may come."""
        world = self._world
        self._counts[world.rank] = self._waiting, more
        for array in (self._counts, self._labels, self._folds_of, self._x):
            world.share(array)
        for x, labels, folds, (n, _) in zip(self._x, self._labels, self._folds_of, self._counts, strict=True):
            for fold, sums in self._folds.items():
                rows = np.flatnonzero(folds[:n] == fold)
                if len(rows):
                    sums.add(x, labels, rows)
        self._waiting = 0
        return bool(self._counts[:, 1].any())


def spread_fingerprint(world: World, tiling: Tiling, moments: Mapping[int, TiledMoments]) -> str | None:
    """Return what moments.fingerprint would, on rank 0; None elsewhere. All ranks call this."""
    found = hashlib.sha256()
    for fold, own in sorted(moments.items()):
        for part in (np.array([fold, own.n], np.int64), own.sum_x, own.sum_y):
            found.update(part.view(np.uint8).data)
        for i in range(tiling.n):
            rows = _full_rows(world, tiling, own.tiles, i)
            if rows is not None:
                found.update(rows.reshape(-1).view(np.uint8).data)
        found.update(own.cross.reshape(-1).view(np.uint8).data)
    return found.hexdigest() if world.is_root else None


def _full_rows(world: World, tiling: Tiling, tiles: Tiles, i: int) -> Floats | None:
    """Return the rows of stripe i of the whole matrix on rank 0, None elsewhere."""
    everyone = world.gather({place: tile for place, tile in tiles.items() if i in place})
    if not world.is_root:
        return None
    own = tiling.stripe(i)
    rows = np.empty((own.stop - own.start, tiling.d))
    for place, tile in (item for some in everyone for item in some.items()):
        if place[0] == i:
            rows[:, tiling.stripe(place[1])] = tile
        else:
            rows[:, tiling.stripe(place[0])] = tile.T
    return rows
