"""Images as an RDD of blocks, read by the executors, and what is computed where the blocks are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from math import ceil, isqrt
from operator import add
from typing import TypeVar

import numpy as np
from pyspark import RDD, SparkContext, StorageLevel

from common.arrays import Labels
from common.data.catalogue import Skipped
from common.data.images import Block, Images, Part
from common.evaluate.evaluation import MOST_MISTAKES, Evaluation
from common.ridge.model import RidgeModel
from common.ridge.moments import FoldMoments, FoldSums, merge
from common.ridge.path import RidgePath
from common.ridge.scoring import evaluate, validate
from spark_jobs.engine.worker_setup import settle

T = TypeVar("T")

DECODED_BYTES, PACKED_BYTES = 24 << 20, 192 << 20
"""Pixels of one partition, at most: where they have to be decoded, and where they lie ready ..."""

RECORD_SHARE = 48
"""... unless what it sends on would be more than one part in so many of them."""

GATHERED_BYTES = 16 << 20
"""Partial results that a driver is sent at once, at most."""


def image_blocks(
    context: SparkContext, images: Images, partitions: int | None = None, names: bool = False, record: int = 0
) -> RDD[Block]:
    """Images as an RDD of blocks, read by the executors.

    Executors keep training blocks, which are read more than once, if they had to decode them: the way into Spark's
    store and back costs more than reading an array again.

    Args:
        context: Spark.
        images: which.
        partitions: how many; None for as many as there are cores, or more where partitions would be large.
        names: whether blocks know their images' names, as test images do.
        record: bytes that a partition will send on.
    """
    blocks = read_parts(context, image_parts(context, images, partitions, record), names)
    return blocks.persist(StorageLevel.MEMORY_AND_DISK) if images.decodes and not names else blocks


def image_parts(context: SparkContext, images: Images, partitions: int | None, record: int = 0) -> Sequence[Part]:
    """Images dealt out for the executors; see image_blocks."""
    if partitions is None:
        # by size in the first place: a cluster that is just starting may have more cores in a moment
        cores, d = context.defaultParallelism, images.n_features
        size = max(DECODED_BYTES if images.decodes else PACKED_BYTES, RECORD_SHARE * record)
        partitions = cores * ceil(len(images) * d / (cores * size))
    return images.parts(partitions)


def read_parts(context: SparkContext, parts: Sequence[Part], names: bool) -> RDD[Block]:
    """The blocks of parts, each part read where a partition is."""
    return context.parallelize(parts, max(1, len(parts))).flatMap(lambda part: _read(part, names))


def _read(part: Part, names: bool) -> Iterator[Block]:
    settle()
    return part.blocks(names)


def reduce_moments(blocks: RDD[Block], n_classes: int, size: int) -> tuple[FoldMoments, list[Skipped]]:
    """The moments of every fold and the images that had to be skipped, reduced on the executors if large.

    Args:
        blocks: images.
        n_classes: how many classes there are.
        size: bytes of the moments of all folds together.
    """

    def of_partition(part: Iterable[Block]) -> Iterator[tuple[FoldMoments, list[Skipped]]]:
        sums = FoldSums(n_classes)
        skipped: list[Skipped] = []
        for block in part:
            sums.add(block.pixels, block.labels, block.folds)
            skipped += block.skipped
        yield sums.result(), skipped

    return gather(blocks.mapPartitions(of_partition), lambda a, b: (merge(a[0], b[0]), a[1] + b[1]), size)


def gather(partials: RDD[T], add: Callable[[T, T], T], size: int) -> T:
    """Reduce an RDD of one element a partition of `size` bytes: at the driver while all together are small.

    That saves the stages of a tree, which take longer than to send a few records.
    """
    if partials.getNumPartitions() * size > GATHERED_BYTES:
        return tree_reduce(partials, add)
    return reduce(add, partials.collect())


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


def count_correct(blocks: RDD[Block], paths: dict[int, RidgePath]) -> tuple[int, Labels]:
    """Score each image that validates by its own fold's path.

    Returns:
        how many images were scored, and how many of them each λ classifies correctly, int64 (n_lambdas,).
    """
    shared = blocks.context.broadcast(paths)

    def of_partition(part: Iterable[Block]) -> Iterator[tuple[int, Labels]]:
        yield validate(shared.value, part)

    counts = blocks.mapPartitions(of_partition).collect()
    shared.destroy()
    return sum(scored for scored, _ in counts), np.sum([correct for _, correct in counts], axis=0)


def evaluate_blocks(blocks: RDD[Block], model: RidgeModel) -> tuple[Evaluation, list[Skipped]]:
    """Score a model where the blocks are; counts and the worst mistakes come back."""
    shared = blocks.context.broadcast(model)

    def of_partition(part: Iterable[Block]) -> Iterator[tuple[Evaluation, list[Skipped]]]:
        evaluated, skipped = zip(*((evaluate(shared.value, block), block.skipped) for block in part), strict=True)
        yield reduce(add, evaluated), [image for images in skipped for image in images]

    size = MOST_MISTAKES * math.prod(model.shape)
    found = gather(blocks.mapPartitions(of_partition), lambda a, b: (a[0] + b[0], a[1] + b[1]), size)
    shared.destroy()
    return found
