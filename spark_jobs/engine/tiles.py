"""Moments whose Gram matrix no single process holds: its tiles are records on the executors.

Executors compute the features of their own images and send them, one byte each, to the tasks that add up tiles. A
task has the tiles of one owner (tiled_moments.TileGrid) in one fold; Spark keeps them, in memory or on disk. A
product with the matrix is then a pass over the tiles, whose partial results are as small as the factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD, SparkContext, StorageLevel

from common.arrays import Features, Floats, Indices, Labels
from common.data.images import Block
from common.features.augmentation import Augmentation
from common.features.feature_map import FeatureMap
from common.ridge.kept import batches_of_features
from common.ridge.tiled_moments import TiledMoments, TiledSum, TileGrid
from common.ridge.tiles import Place, Tiling, best_tile_product

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


Record = TiledMoments | tuple[Place, Floats]
"""First the moments of a partition's columns, without tiles, then each of its tiles."""


def add_up(layout: TileLayout, partition: int, rows: Iterable[tuple[int, Rows]]) -> Iterator[Record]:
    """Add up the tiles of one partition."""
    owner = layout.owner(partition)
    stripes = layout.stripes(owner)
    # the same tiles of a smaller matrix, which has the owner's columns alone
    smaller = Tiling(len(layout.columns(owner)), layout.tiling.side)
    place_of = {(stripes.index(i), stripes.index(j)): (i, j) for i, j in layout.own(owner)}
    sums = TiledSum(smaller, list(place_of), layout.n_classes, best_tile_product(smaller, 1))
    for _, (x, labels) in rows:
        sums.add(x, labels)
    moments = sums.result()
    yield TiledMoments(moments.n, moments.sum_x, moments.sum_y, moments.cross, {})
    while moments.tiles:
        place, tile = moments.tiles.popitem()
        yield place_of[place], tile


@dataclass(frozen=True)
class SparkTiles:
    """The moments of all folds, their tiles on the executors.

    Attributes:
        context: the Spark context.
        layout: which tiles lie where.
        records: the tiles; see add_up.
        moments: the moments of each fold, without tiles.
    """

    context: SparkContext
    layout: TileLayout
    records: RDD[Any]
    moments: dict[int, TiledMoments]

    @classmethod
    def of(
        cls, blocks: RDD[Block], layout: TileLayout, features: FeatureMap, augmentation: Augmentation
    ) -> SparkTiles:
        """Add up the moments of blocks on the executors."""
        addressed = blocks.mapPartitions(partial(feature_records, layout, features, augmentation))
        dealt = addressed.partitionBy(layout.n_partitions, int)
        records = dealt.mapPartitionsWithIndex(partial(add_up, layout)).persist(StorageLevel.MEMORY_AND_DISK)
        parts: list[Any] = blocks.context.runJob(records, _first)  # all partitions, so that all are added up
        each = len(layout.folds)
        moments = {fold: _joined(layout, parts[i::each]) for i, fold in enumerate(layout.folds)}
        return cls(blocks.context, layout, records, {fold: own for fold, own in moments.items() if own.n})

    def multiply(self, folds: Sequence[int], x: Floats) -> Floats:
        """Return XᵀX x over some folds, float64 (d, k)."""
        shared = self.context.broadcast(x)
        work = partial(_multiply, self.layout.tiling, shared)
        product = np.zeros_like(x)
        for i, part in self.context.runJob(self.records, work, self.layout.partitions_of(folds)):
            product[self.layout.tiling.stripe(i)] += part
        shared.destroy()
        return product

    def diagonal(self, folds: Sequence[int]) -> Floats:
        """Return the diagonal of XᵀX over some folds, float64 (d,)."""
        diagonal = np.zeros(self.layout.tiling.d)
        for i, part in self.context.runJob(self.records, _diagonals, self.layout.partitions_of(folds)):
            diagonal[self.layout.tiling.stripe(i)] += part
        return diagonal

    def forget(self) -> None:
        """Let Spark drop the tiles."""
        self.records.unpersist()


def _joined(layout: TileLayout, parts: Sequence[TiledMoments]) -> TiledMoments:
    """Return the moments of all columns, given those of each owner's."""
    sum_x, cross = np.empty(layout.tiling.d), np.empty((layout.tiling.d, layout.n_classes))
    for owner, part in enumerate(parts):
        columns = layout.columns(owner)
        sum_x[columns], cross[columns] = part.sum_x, part.cross
    return TiledMoments(parts[0].n, sum_x, parts[0].sum_y, cross, {})


def _first(records: Iterable[Record]) -> list[Record]:
    return [next(iter(records))]


def _tiles(records: Iterable[Record]) -> Iterator[tuple[Place, NDArray[np.float64]]]:
    for record in records:
        if not isinstance(record, TiledMoments):
            yield record


def _diagonals(records: Iterable[Record]) -> Iterator[tuple[int, Floats]]:
    for (i, j), tile in _tiles(records):
        if i == j:
            yield i, tile.diagonal().copy()


def _multiply(tiling: Tiling, shared: Any, records: Iterable[Record]) -> Iterator[tuple[int, Floats]]:
    """Yield the stripes of a partition's part of the product, those alone that its tiles reach."""
    x = shared.value
    parts: dict[int, Floats] = {}

    def add(i: int, part: Floats) -> None:
        parts[i] = parts[i] + part if i in parts else part

    for (i, j), tile in _tiles(records):
        add(i, tile @ x[tiling.stripe(j)])
        if i != j:
            add(j, tile.T @ x[tiling.stripe(i)])
    yield from parts.items()
