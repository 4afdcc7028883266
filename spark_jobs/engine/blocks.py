"""Images as an RDD of blocks that executors read, and computations where the blocks are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from math import ceil, isqrt
from operator import add
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from pyspark import RDD, SparkContext, StorageLevel

from common.arrays import Labels
from common.data.catalogue import Skipped
from common.data.images import Block, CataloguePart, Images, Part
from common.data.sources.source import ReaderById, Unlabelled
from common.data.splits import ALWAYS_TRAINING, shard
from common.evaluate.evaluation import MOST_MISTAKES, Evaluation
from common.features.feature_map import FeatureMap
from common.ridge.kept import with_features
from common.ridge.model import RidgeModel
from common.ridge.moments import FoldMoments, FoldSums, merge
from common.ridge.path import RidgePath
from common.ridge.scoring import evaluate, validate
from spark_jobs.engine.worker_setup import settle

if TYPE_CHECKING:  # workers need not import what a problem is made of
    from common.ridge.fit import Problem


T = TypeVar("T")

DECODED_BYTES, PACKED_BYTES = 24 << 20, 192 << 20
"""The largest size of the pixels of a partition: if they must be decoded, and if they are stored as pixels ..."""

RECORD_SHARE = 48
"""... unless the record that a partition sends on is larger than one part in 48 of that size."""

GATHERED_BYTES = 16 << 20
"""The largest size of partial results that the driver collects directly, without a tree."""


def image_blocks(
    context: SparkContext,
    images: Images,
    partitions: int | None = None,
    names: bool = False,
    record: int = 0,
    keep: FeatureMap | None = None,
    once: bool = False,
) -> RDD[Block]:
    """Return images as an RDD of blocks that executors read.

    Training blocks are read more than once. Executors keep them if they had to decode them; otherwise reading an
    array again costs less than storing it in Spark's cache and loading it.

    Args:
        context: the Spark context.
        images: the images of one split.
        partitions: the number of partitions; None for one per core, or more if partitions would be large.
        names: True if blocks need the names of their images.
        record: the size in bytes of the record that a partition will send on.
        keep: computes features of the images that validate, which executors keep with the blocks; None for none.
        once: True if the blocks are read once, as test images are.
    """
    blocks = read_parts(context, image_parts(context, images, partitions, record), names)
    if keep is not None:
        blocks = blocks.map(partial(with_features, features=keep))
    kept = (images.decodes and not once) or keep is not None
    return blocks.persist(StorageLevel.MEMORY_AND_DISK) if kept else blocks


def image_parts(context: SparkContext, images: Images, partitions: int | None, record: int = 0) -> Sequence[Part]:
    """Deal out images to the executors; see image_blocks for the arguments."""
    size = max(DECODED_BYTES if images.decodes else PACKED_BYTES, RECORD_SHARE * record)
    return images.parts(partitions or _partitions(context, len(images) * images.n_pixels, size))


def unlabelled_parts(context: SparkContext, unlabelled: Unlabelled, partitions: int | None) -> list[CataloguePart]:
    """Deal out images to predict, which blocks name by their ids; see image_blocks for `partitions`."""
    images, reader = unlabelled.images, unlabelled.reader
    wanted = partitions or _partitions(context, len(images) * math.prod(reader.shape), DECODED_BYTES)
    count = min(wanted, len(images))
    items = np.empty(len(images), object)
    items[:] = list(zip(images.ids, images.items, strict=True))
    folds = np.full(len(images), ALWAYS_TRAINING, np.int16)
    by_id = ReaderById(reader)
    shards = [shard(len(images), part, count) for part in range(count)]
    return [CataloguePart(by_id, items[rows], images.labels[rows], folds[rows]) for rows in shards]


def _partitions(context: SparkContext, n_bytes: int, size: int) -> int:
    """Return a number of partitions of at most `size` bytes of pixels, a multiple of the cores.

    A cluster that is just starting may have more cores in a moment: mostly the size decides.
    """
    cores = context.defaultParallelism
    return cores * ceil(n_bytes / (cores * size))


def read_parts(context: SparkContext, parts: Sequence[Part], names: bool) -> RDD[Block]:
    """Return the blocks of parts, one partition per part."""
    return context.parallelize(parts, max(1, len(parts))).flatMap(lambda part: _read(part, names))


def _read(part: Part, names: bool) -> Iterator[Block]:
    settle()
    return part.blocks(names)


class Summed(NamedTuple):
    """The moments of some images.

    Attributes:
        moments: by fold.
        products: the names of what multiplied.
        skipped: images that could not be used.
    """

    moments: FoldMoments
    products: frozenset[str]
    skipped: list[Skipped]

    def __add__(self, other: Summed) -> Summed:  # type: ignore[override]
        return Summed(
            merge(self.moments, other.moments), self.products | other.products, self.skipped + other.skipped
        )


def reduce_moments(blocks: RDD[Block], problem: Problem) -> Summed:
    """Sum the moments of every fold, on the executors if they are large, and list the skipped images.

    Args:
        blocks: images.
        problem: what they are to be fitted to.
    """
    n_classes, features, augmentation = problem.n_classes, problem.features, problem.augmentation

    def of_partition(part: Iterable[Block]) -> Iterator[Summed]:
        sums = FoldSums(n_classes, features, augmentation)
        skipped: list[Skipped] = []
        for block in part:
            sums.add_block(block)
            skipped += block.skipped
        yield Summed(sums.result(), sums.products, skipped)

    return gather(blocks.mapPartitions(of_partition), add, problem.moments_bytes)


def gather(partials: RDD[T], add: Callable[[T, T], T], size: int) -> T:
    """Reduce an RDD with one element of `size` bytes per partition.

    Small elements are reduced at the driver. That saves the stages of a tree, which take longer than sending a few
    records.
    """
    if partials.getNumPartitions() * size > GATHERED_BYTES:
        return tree_reduce(partials, add)
    return reduce(add, partials.collect())


def tree_reduce(partials: RDD[T], add: Callable[[T, T], T]) -> T:
    """Reduce an RDD with one element per partition in two levels, the last of which runs on an executor too.

    RDD.treeReduce ends at the driver with √P results; if these are d×d matrices, even so few exceed
    `spark.driver.maxResultSize`. Here the driver receives one result.
    """
    partitions = partials.getNumPartitions()
    middle = isqrt(partitions - 1) + 1 if partitions > 3 else 1
    for width in dict.fromkeys((middle, 1)):
        keyed = partials.mapPartitionsWithIndex(
            lambda index, part, width=width: ((index % width, value) for value in part)  # type: ignore[misc]
        )
        partials = keyed.reduceByKey(add, width).values()
    return partials.first()


def count_correct(blocks: RDD[Block], paths: dict[int, RidgePath], features: FeatureMap) -> tuple[int, Labels]:
    """Score each held-out image by the path of the fold that it validates.

    Returns:
        the number of images scored, and how many of them each λ classifies correctly, int64 (n_lambdas,).
    """
    shared = blocks.context.broadcast(paths)

    def of_partition(part: Iterable[Block]) -> Iterator[tuple[int, Labels]]:
        yield validate(shared.value, features, part)

    counts = blocks.mapPartitions(of_partition).collect()
    shared.destroy()
    return sum(scored for scored, _ in counts), np.sum([correct for _, correct in counts], axis=0)


def evaluate_blocks(blocks: RDD[Block], model: RidgeModel) -> tuple[Evaluation, list[Skipped]]:
    """Score a model where the blocks are, and return counts, the worst mistakes, and skipped images."""
    shared = blocks.context.broadcast(model)

    def of_partition(part: Iterable[Block]) -> Iterator[tuple[Evaluation, list[Skipped]]]:
        evaluated, skipped = zip(*((evaluate(shared.value, block), block.skipped) for block in part), strict=True)
        yield reduce(add, evaluated), [image for images in skipped for image in images]

    size = MOST_MISTAKES * math.prod(model.shape)
    found = gather(blocks.mapPartitions(of_partition), lambda a, b: (a[0] + b[0], a[1] + b[1]), size)
    shared.destroy()
    return found
