"""Moments whose Gram matrix no single process holds: its tiles lie on the executors.

Executors compute the features of their own images and send them, one byte each, to the tasks that add up tiles. A
task has the tiles of one owner (tiled_moments.TileGrid) in one fold, and leaves them in a file (tile_files.py). A
product with the matrix is then a pass over these files, whose partial results are as small as the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from pyspark import RDD, Broadcast, SparkContext, StorageLevel

from common.arrays import Features, Floats, Indices, Labels
from common.data.images import Block
from common.errors import RunError
from common.features.augmentation import Augmentation
from common.features.feature_map import FeatureMap
from common.ridge.kept import batches_of_features
from common.ridge.tiled_moments import TiledMoments, TiledSum, TileGrid
from common.ridge.tiles import Place, Tiling, best_tile_product
from spark_jobs.engine.tile_files import TileFile

OWNER_BYTES = 1 << 30
"""The largest size of the tiles of one owner in one fold, which a task holds while it adds them up."""

SPARK_SIDE = 512
"""Columns of a tile."""


@dataclass(frozen=True)
class TileLayout:
    """Which tiles lie in which partition.

    Attributes:
        tiling: the tiles.
        n_owners: the number of owners.
        folds: the numbers of all folds.
        n_classes: the number of classes.
    """

    tiling: Tiling
    n_owners: int
    folds: tuple[int, ...]
    n_classes: int

    @classmethod
    def of(cls, d: int, folds: Sequence[int], n_classes: int, cores: int) -> TileLayout:
        """Return a layout of d features for a number of cores, all of which are busy in a pass over one fold."""
        owners = max(-(-4 * d * d // OWNER_BYTES), cores)
        tiling = Tiling(d, min(SPARK_SIDE, max(1, d // (2 * owners))))
        return cls(tiling, min(owners, tiling.n), tuple(folds), n_classes)

    @property
    def n_partitions(self) -> int:
        """The number of partitions."""
        return self.n_owners * len(self.folds)

    def partition(self, owner: int, fold: int) -> int:
        """Return the partition of an owner's tiles of a fold."""
        return owner * len(self.folds) + self.folds.index(fold)

    def partitions_of(self, folds: Iterable[int]) -> list[int]:
        """Return the partitions with the tiles of some folds."""
        wanted = list(folds)
        return [self.partition(owner, fold) for owner in range(self.n_owners) for fold in wanted]

    def owner(self, partition: int) -> int:
        """Return the owner of a partition's tiles."""
        return partition // len(self.folds)

    def own(self, owner: int) -> list[Place]:
        """Return the places of an owner's tiles."""
        return TileGrid.of(self.n_owners).own(self.tiling, owner)

    def stripes(self, owner: int) -> list[int]:
        """Return the stripes that an owner's tiles are products of, in order."""
        return sorted({stripe for place in self.own(owner) for stripe in place})

    def columns(self, owner: int) -> Indices:
        """Return the columns of these stripes, int64."""
        stripes = (self.tiling.stripe(i) for i in self.stripes(owner))
        return np.concatenate([np.arange(stripe.start, stripe.stop) for stripe in stripes])


Rows = tuple[Features, Labels]


def feature_records(
    layout: TileLayout, features: FeatureMap, augmentation: Augmentation, blocks: Iterable[Block]
) -> Iterator[tuple[int, Rows]]:
    """Compute the features of blocks, and address them to the partitions that add up the tiles of their fold.

    Yields:
        the number of a partition; and the features that it needs, uint8 (n, k), with their labels, int64 (n,).
    """
    columns = [layout.columns(owner) for owner in range(layout.n_owners)]
    for block in blocks:
        for x, rows in batches_of_features(block, features, augmentation):
            labels, folds = block.labels[rows], block.folds[rows]
            for fold in np.unique(folds):
                own = np.flatnonzero(folds == fold)
                for owner, needed in enumerate(columns):
                    yield layout.partition(owner, int(fold)), (x[own[:, None], needed], labels[own])


def add_up(layout: TileLayout, partition: int, rows: Iterable[tuple[int, Rows]]) -> Iterator[TileFile]:
    """Add up the moments of one partition, and leave them in a file of this executor."""
    owner = layout.owner(partition)
    stripes = layout.stripes(owner)
    # the same tiles of a smaller matrix, which has the owner's columns alone
    smaller = Tiling(len(layout.columns(owner)), layout.tiling.side)
    own = [(stripes.index(i), stripes.index(j)) for i, j in layout.own(owner)]
    sums = TiledSum(smaller, own, layout.n_classes, best_tile_product(smaller, 1))
    for _, (x, labels) in rows:
        sums.add(x, labels)
    yield TileFile.write(sums.result(), own, partition)


class Missing(NamedTuple):
    """Says that a task did not find the file of its partition."""

    partition: int


Work = Callable[[TileLayout, TileFile], Iterable[Any]]
"""Computes results from the file of one partition."""

ATTEMPTS = 4
"""Number of times that tasks look for files."""


@dataclass(frozen=True)
class SparkTiles:
    """The moments of all folds, their tiles on the executors.

    Attributes:
        context: the Spark context.
        layout: which tiles lie where.
        files: the file of each partition. Spark remembers which executor wrote it, runs tasks there, and adds up
            again what an executor takes with it when it dies.
        moments: the moments of each fold, without tiles.
    """

    context: SparkContext
    layout: TileLayout
    files: RDD[TileFile]
    moments: dict[int, TiledMoments]

    @classmethod
    def of(
        cls, blocks: RDD[Block], layout: TileLayout, features: FeatureMap, augmentation: Augmentation
    ) -> SparkTiles:
        """Add up the moments of blocks on the executors."""
        addressed = blocks.mapPartitions(partial(feature_records, layout, features, augmentation))
        dealt = addressed.partitionBy(layout.n_partitions, int)
        files = dealt.mapPartitionsWithIndex(partial(add_up, layout)).persist(StorageLevel.MEMORY_AND_DISK)
        tiles = cls(blocks.context, layout, files, {})
        parts = dict(tiles._each(layout.folds, _numbered_moments))
        for fold in layout.folds:
            own = [parts[layout.partition(owner, fold)] for owner in range(layout.n_owners)]
            if own[0].n:
                tiles.moments[fold] = _joined(layout, own)
        return tiles

    def multiply(self, folds: Sequence[int], x: Floats) -> Floats:
        """Return XᵀX x over some folds, float64 (d, k)."""
        shared = self.context.broadcast(x)
        product = np.zeros_like(x)
        for i, part in self._each(folds, partial(_multiply, shared)):
            product[self.layout.tiling.stripe(i)] += part
        shared.destroy()
        return product

    def diagonal(self, folds: Sequence[int]) -> Floats:
        """Return the diagonal of XᵀX over some folds, float64 (d,)."""
        diagonal = np.zeros(self.layout.tiling.d)
        for i, part in self._each(folds, _diagonals):
            diagonal[self.layout.tiling.stripe(i)] += part
        return diagonal

    def forget(self) -> None:
        """Remove the files that are found."""
        self.context.runJob(self.files, partial(_at_home, self.layout, _remove))
        self.files.unpersist()

    def _each(self, folds: Iterable[int], work: Work) -> Iterator[Any]:
        """Run `work` on the file of each partition of some folds, where it lies, and yield what all tasks yield.

        Raises:
            RunError: files are not found even after they were written again.
        """
        left = self.layout.partitions_of(folds)
        for attempt in range(ATTEMPTS):
            found = self.context.runJob(self.files, partial(_at_home, self.layout, work), left)
            left = [result.partition for result in found if isinstance(result, Missing)]
            yield from (result for result in found if not isinstance(result, Missing))
            if not left:
                return
            # a busy executor lets another one take its task, which finds no file; later it is less busy
            if attempt:
                self.forget()  # not so: add up all tiles again
                self.files.persist(StorageLevel.MEMORY_AND_DISK)
        raise RunError(
            f"{len(left)} of {self.layout.n_partitions} files of tiles are not where executors wrote them; "
            "keep other programs out of spark.local.dir"
        )


def _at_home(layout: TileLayout, work: Work, files: Iterable[TileFile]) -> Iterator[Any]:
    """Yield what `work` returns, or Missing if this machine does not have the file."""
    for file in files:
        try:
            yield from list(work(layout, file))
        except FileNotFoundError:
            yield Missing(file.partition)


def _joined(layout: TileLayout, parts: Sequence[TiledMoments]) -> TiledMoments:
    """Return the moments of all columns, given those of each owner's."""
    sum_x, cross = np.empty(layout.tiling.d), np.empty((layout.tiling.d, layout.n_classes))
    for owner, part in enumerate(parts):
        columns = layout.columns(owner)
        sum_x[columns], cross[columns] = part.sum_x, part.cross
    return TiledMoments(parts[0].n, sum_x, parts[0].sum_y, cross, {})


def _numbered_moments(_: TileLayout, file: TileFile) -> list[tuple[int, TiledMoments]]:
    return [(file.partition, file.moments())]


def _tiles(layout: TileLayout, file: TileFile) -> Iterator[tuple[Place, Floats]]:
    return file.tiles(layout.tiling, layout.own(layout.owner(file.partition)))


def _diagonals(layout: TileLayout, file: TileFile) -> list[tuple[int, Floats]]:
    return [(i, tile.diagonal().copy()) for (i, j), tile in _tiles(layout, file) if i == j]


def _multiply(shared: Broadcast[Floats], layout: TileLayout, file: TileFile) -> Iterable[tuple[int, Floats]]:
    """Return the stripes of a partition's part of the product, those alone that its tiles reach."""
    x, stripe = shared.value, layout.tiling.stripe
    parts: dict[int, Floats] = {}
    for (i, j), tile in _tiles(layout, file):
        for row, column, factor in ((i, j, tile), (j, i, tile.T))[: 1 + (i != j)]:
            part = factor @ x[stripe(column)]
            parts[row] = parts[row] + part if row in parts else part
    return parts.items()


def _remove(_: TileLayout, file: TileFile) -> list[Any]:
    file.remove()
    return []
