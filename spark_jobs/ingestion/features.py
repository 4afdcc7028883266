"""Features in the place of pixels: what an ingest with --features stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from pyspark import RDD, SparkContext

from common.arrays import Hashes, Labels, Pixels
from common.data.images import Block, Sample, readable_blocks
from common.data.splits import hashed_test, image_hashes
from common.data.storage import Storage
from common.data.table.table import FEATURES, Table
from common.data.table.writing import TableSettings, plain_names
from common.data.thumbnails import thumbnail
from common.errors import InputError
from common.features.feature_map import FeatureMap, Shape, usable_features
from common.features.spec import FeatureSpec
from common.features.stored import stored_shape
from common.features.table import described_map, left_map, read_map
from common.run.features import feature_map
from spark_jobs.ingestion.listing import Listing

NONE_DONE = np.empty(0, np.uint64)


@dataclass(frozen=True)
class TableMap:
    """The map that computes what a table stores.

    Attributes:
        features: the map.
        spec: how it was learnt.
        image_shape: (height, width, channels) of the images.
    """

    features: FeatureMap
    spec: str
    image_shape: Shape

    @classmethod
    def found(cls, storage: Storage, before: Table | None, spec: FeatureSpec | None) -> TableMap | None:
        """Return the map of a table of features, or the one that a killed ingest of the same --features left.

        Raises:
            InputError: it cannot be read.
        """
        if before is not None:
            described = before.features
        elif FEATURES in storage.entries():
            described = left_map(storage)
            if described and spec is not None and described["spec"] != spec.text:
                described = None
        else:
            described = None
        if described is None:
            return None
        stored = read_map(storage, described)
        return cls(stored.computed_by, str(described["spec"]), stored.image_shape)

    @property
    def shape(self) -> Shape:
        """The shape that features have in the place of an image."""
        return stored_shape(self.features.n_features(self.image_shape))

    def describe(self) -> dict[str, Any]:
        """Return what dataset.json says of it."""
        return described_map(self.features, self.spec, self.image_shape)

    def stored(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield blocks with features in the place of pixels, and thumbnails beside them.

        Images whose features cannot be computed count as skipped.
        """
        for block in blocks:
            x, kept, reason = usable_features(self.features, block.pixels)
            pictures = [thumbnail(block.pixels[row]) for row in kept]
            if len(kept) < len(block.labels):
                block = block.without(np.delete(np.arange(len(block.labels)), kept).tolist(), reason)
            yield block._replace(pixels=x.reshape(-1, *self.shape), thumbnails=pictures)


def learn_map(
    context: SparkContext, listing: Listing, settings: TableSettings, spec: FeatureSpec, seed: int
) -> TableMap:
    """Learn the map of a new table from a sample of its training images, or take it from a file.

    Raises:
        InputError: it does not fit the images, or none of these can be used.
    """
    images = ListedImages(context, listing, settings)
    chosen, _ = spec.for_images(images)
    return TableMap(feature_map(chosen, images, seed), chosen.text, listing.shape)


def check_spec(spec: FeatureSpec | None, before: Table | None) -> None:
    """Refuse other --features than those of a table that exists already.

    Raises:
        InputError: the table has a map of its own, or holds pixels.
    """
    if spec is None or before is None or (before.features and before.features["spec"] == spec.text):
        return
    holds = f"the features {before.features['spec']}" if before.features else "pixels"
    raise InputError(f"{before.storage}: holds {holds} already; leave out --features, or name another DEST")


class Candidates(NamedTuple):
    """Training images of a partition: uint8 (n, h, w, c), int64 (n,), uint32 (n, HASHES)."""

    pixels: Pixels
    labels: Labels
    hashes: Hashes


class ListedImages:
    """The images of a listing as something to learn a map from.

    Args:
        context: Spark, whose executors read them.
        listing: the images.
        settings: which of them are test images.
    """

    def __init__(self, context: SparkContext, listing: Listing, settings: TableSettings) -> None:
        self._context = context
        self._listing = listing
        self._settings = settings
        self.shape = listing.shape

    @property
    def n_sampled(self) -> int:
        """About the number of training images."""
        return round(self._listing.count() * (1 - self._settings.test_fraction))

    def sample(self, n: int, seed: int) -> Sample:
        """Read up to n training images, in an order that `seed` chooses."""
        blocks = self._listing.blocks(self._context, self._settings, NONE_DONE)
        found = [
            images
            for split_blocks, split in blocks
            if split != "test"
            for images in _candidates(split_blocks, split, self._settings.test_fraction, n).collect()
            if len(images.labels)
        ]
        if not found:
            return Sample(np.empty((0, *self.shape), np.uint8), np.empty(0, np.int64))
        pixels, labels, hashes = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        order = np.lexsort(hashes.T)[:n]
        order = np.random.default_rng([seed, *b"features"]).permutation(order)
        return Sample(pixels[order], labels[order])


def _candidates(blocks: RDD[Block], split: str | None, test_fraction: float, n: int) -> RDD[Candidates]:
    """Return the first training images of each partition, as many together as n or a few more."""
    each = ceil(n / blocks.getNumPartitions())

    def of_partition(part: Iterable[Block]) -> Iterator[Candidates]:
        left = each
        for block in readable_blocks(part):
            hashes = image_hashes(plain_names(block.names or ()), block.groups)
            own = np.arange(len(hashes))
            if split is None:
                own = np.flatnonzero(~hashed_test(hashes, test_fraction))
            own = own[:left]
            yield Candidates(block.pixels[own], block.labels[own], hashes[own])
            left -= len(own)
            if not left:
                return

    return blocks.mapPartitions(of_partition)
