"""Images as an RDD of blocks, read by the executors, and what is computed where the blocks are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import ceil, isqrt
from typing import NamedTuple, TypeVar

import numpy as np
from pyspark import RDD, SparkContext, StorageLevel

from common.catalogue import Catalogue, Indices, Items, PixelReader, Skipped
from common.evaluation import Evaluation, concatenate, evaluate
from common.imageset import Labels, Pixels
from common.ridge.model import RidgeModel
from common.ridge.moments import FoldMoments, merge, moments_by_fold
from common.ridge.path import RidgePath
from common.splits import ALWAYS_TRAINING, Folds, shard

T = TypeVar("T")

BLOCK_BYTES = 4 << 20
"""Pixels of one block: a few thousand small images, well below what an RDD record may hold."""

PARTITION_BYTES = 24 << 20
"""Pixels of one partition, at most: enough for its sums to be worth a d×d matrix."""


class Shard(NamedTuple):
    """What an executor needs to read its part of a catalogue: no pixels, no class names."""

    reader: PixelReader
    items: Items
    labels: Labels
    folds: Folds
    positions: Indices


class Block(NamedTuple):
    """Some images.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        labels: int64 (n,).
        folds: int16 (n,).
        positions: int64 (n,), where in the catalogue.
        skipped: images that belonged here and are unusable.
    """

    pixels: Pixels
    labels: Labels
    folds: Folds
    positions: Indices
    skipped: list[Skipped]


def image_blocks(
    context: SparkContext, catalogue: Catalogue, folds: Folds | None, partitions: int | None
) -> RDD[Block]:
    """The images of a catalogue as an RDD of blocks, read by the executors.

    Executors keep blocks that are read more than once, if they had to decode them: the way into Spark's store and
    back costs more than reading an array again.

    Args:
        context: Spark.
        catalogue: which images.
        folds: int16 (len(catalogue),), or None for test images, which are read once.
        partitions: how many; None for as many as there are cores, or more where partitions would be large.
    """
    keep = folds is not None and catalogue.reader.decodes
    if folds is None:
        folds = np.full(len(catalogue), ALWAYS_TRAINING, np.int16)
    if partitions is None:
        # by size in the first place: a cluster that is just starting reports two cores, whatever it will have
        cores = context.defaultParallelism
        partitions = cores * ceil(len(catalogue) * catalogue.n_features / (cores * PARTITION_BYTES))
    partitions = max(1, min(partitions, len(catalogue)))
    order = np.argsort(folds, kind="stable")  # so that most blocks are of one fold and few are cut in two
    rows = max(1, BLOCK_BYTES // catalogue.n_features)
    # A hold-out is dealt out image by image, so that every partition has its share to validate. With K folds every
    # image validates; there each partition gets a stretch of one fold or two, and sums up few matrices.
    dealt = ALWAYS_TRAINING in folds
    shards = []
    for rank in range(partitions):
        own = order[rank::partitions] if dealt else order[shard(len(order), rank, partitions)]
        shards.append(Shard(catalogue.reader, catalogue.items[own], catalogue.labels[own], folds[own], own))
    blocks = context.parallelize(shards, partitions).flatMap(lambda part: _read(part, rows))
    return blocks.persist(StorageLevel.MEMORY_AND_DISK) if keep else blocks


def _read(part: Shard, rows: int) -> Iterator[Block]:
    for start in range(0, len(part.items), rows):
        where = slice(start, start + rows)
        read = part.reader.read(part.items[where])
        kept = read.kept + start
        yield Block(read.pixels, part.labels[kept], part.folds[kept], part.positions[kept], read.skipped)


def reduce_moments(blocks: RDD[Block], n_classes: int) -> tuple[FoldMoments, list[Skipped]]:
    """The moments of every fold and the images that had to be skipped, tree-reduced on the executors."""

    def of_partition(part: Iterable[Block]) -> Iterator[tuple[FoldMoments, list[Skipped]]]:
        moments: FoldMoments = {}
        skipped: list[Skipped] = []
        for block in part:
            moments = merge(moments, moments_by_fold(block.pixels, block.labels, block.folds, n_classes))
            skipped += block.skipped
        yield moments, skipped

    return tree_reduce(blocks.mapPartitions(of_partition), lambda a, b: (merge(a[0], b[0]), a[1] + b[1]))


def tree_reduce(partials: RDD[T], add: Callable[[T, T], T]) -> T:
    """Reduce an RDD of one element a partition in two levels, the last of them on an executor too.

    RDD.treeReduce ends at the driver with a result from each of √P partitions; of d×d matrices even those few
    exceed `spark.driver.maxResultSize`. Here the driver gets one.
    """
    partitions = partials.getNumPartitions()
    middle = isqrt(partitions - 1) + 1 if partitions > 3 else 1
    for width in dict.fromkeys((middle, 1)):
        keyed = partials.mapPartitionsWithIndex(
            lambda index, part, width=width: ((index % width, value) for value in part)  # type: ignore[misc]
        )
        partials = keyed.reduceByKey(add, width).values()
    return partials.first()


def count_correct(blocks: RDD[Block], paths: dict[int, RidgePath]) -> Labels:
    """How many images each λ classifies correctly, each scored by its own fold's path; int64 (n_lambdas,)."""
    shared = blocks.context.broadcast(paths)

    def of_partition(part: Iterable[Block]) -> Iterator[Labels]:
        correct = np.zeros(len(next(iter(shared.value.values())).weights), np.int64)
        for block in part:
            for fold, path in shared.value.items():
                rows = np.flatnonzero(block.folds == fold)
                correct += path.count_correct(block.pixels[rows], block.labels[rows])
        yield correct

    counts: Labels = np.sum(blocks.mapPartitions(of_partition).collect(), axis=0)
    shared.destroy()
    return counts


def evaluate_blocks(blocks: RDD[Block], model: RidgeModel) -> tuple[Evaluation, list[Skipped]]:
    """Score a model where the blocks are; classes, margins and counts come back."""
    shared = blocks.context.broadcast(model)
    parts = blocks.map(
        lambda block: (evaluate(shared.value, block.pixels, block.labels, block.positions), block.skipped)
    ).collect()
    shared.destroy()
    return concatenate([part for part, _ in parts]), [image for _, skipped in parts for image in skipped]
