"""Training on the images of a table: opened on rank 0, and read into the memory of each machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from common.arrays import Indices
from common.console import Console
from common.data.catalogue import Catalogue, PixelReader
from common.data.images import CatalogueImages
from common.data.splits import ALWAYS_TRAINING, FoldRule
from common.data.table.reading import split_table
from common.data.table.rows import TableReader, listed, row_items
from common.data.table.table import Table
from common.errors import InputError
from common.run.flags import refuse_beside_table
from mpi_jobs.engine.world import World
from mpi_jobs.training.loading import Loader


def open_rows(table: Table, arguments: argparse.Namespace) -> tuple[CatalogueImages, CatalogueImages]:
    """List the training images, with those that validate, and the test images of a table.

    Training images come first, by class and name: as a folder of them would be ordered, so that shuffles and
    augmentation are the same. Validation and test images are in the order of the table, in which reading is fast.

    Raises:
        InputError: flags ask for other images than the table holds, or a split is empty.
    """
    _check_flags(table, arguments)
    rule = FoldRule(None, arguments.validation)
    train, test = (listed(images) for images in split_table(table, arguments.data, rule, arguments.limit))
    validation = np.flatnonzero(train.folds != ALWAYS_TRAINING)
    training = np.flatnonzero(train.folds == ALWAYS_TRAINING)
    for what, numbers in (("training", training), ("validation", validation)):
        if not len(numbers):
            raise InputError(
                f"--data {arguments.data}: --validation {arguments.validation:g} leaves no {what} images of "
                f"{len(train)}, because hashes of names or groups decide; choose another, or ingest more"
            )
    catalogue = train.catalogue
    training = training[np.argsort(catalogue.items["name"][training], kind="stable")]
    training = training[np.argsort(catalogue.labels[training], kind="stable")]
    order = np.concatenate([training, validation])
    return CatalogueImages(catalogue.take(order), train.folds[order], train.pixel_format), test


def _check_flags(table: Table, arguments: argparse.Namespace) -> None:
    """Make sure that the table holds the images that the flags ask for.

    Raises:
        InputError: it does not.
    """
    what = f"--data {arguments.data}: "
    if table.features is not None:
        raise InputError(
            f"{what}it holds the features {table.features.get('spec')} and no pixels; ridge jobs fit those, "
            "and a table that was ingested without --features is for train_cnn.py"
        )
    refuse_beside_table(arguments, "predict_cnn.py")
    height, width, channels = table.shape
    side = arguments.image_size
    if side is not None and (height, width) != (side, side):
        raise InputError(
            f"--image-size {side}: the images of {arguments.data} are {height}x{width}; leave it out, "
            f"or ingest with --size {side}x{side}"
        )
    if arguments.grey and channels > 1:
        raise InputError(
            f"--grey: the images of {arguments.data} are in colour; leave it out, or ingest with --grey"
        )


class _Place(NamedTuple):
    """Where a rank stands: its number on its machine, the number of ranks there, and the slots of their cache."""

    rank: int
    size: int
    slots: int


def fill_cache(
    world: World, loader: Loader, reader: PixelReader, images: Catalogue | None, console: Console
) -> None:
    """Read a table into the cache of each machine, each row group by one of its ranks. All ranks call this.

    Args:
        world: the ranks.
        loader: reads into the cache of this rank's machine.
        reader: the table's.
        images: the images of the cache, on rank 0.
        console: warns of images for which there is no room.

    Raises:
        AgreedError: a rank cannot read the table.
    """
    cache = loader.cache
    here = _Place(cache.machine.rank, cache.machine.size, cache.slots) if cache else _Place(0, 1, 0)
    places = world.all_gather(here)
    if not isinstance(reader, TableReader):
        raise TypeError("only tables have row groups")

    def dealt() -> list[tuple[Indices, Indices]]:
        if images is None:
            raise ValueError("rank 0 has no images to deal out")
        _warn_of_room(images, min(place.slots for place in places), console)
        return _dealt_row_groups(images, reader, places)

    numbers, rows = world.scatter(dealt)
    items = row_items(rows)
    ends = np.flatnonzero(np.diff(reader.groups(items))) + 1
    pieces = zip(np.split(numbers, ends), np.split(items, ends), strict=True)
    world.everywhere(lambda: loader.fill(pieces))


def _warn_of_room(images: Catalogue, slots: int, console: Console) -> None:
    """Warn if the cache has too few slots."""
    n = len(images)
    if slots < n:
        needed = ceil(n * (images.n_pixels + 1) / 2**20)
        console.warn(
            f"no room for {n - slots:,} of {n:,} images in --cache: row groups of the table are read again for "
            f"them in every epoch; --cache {needed} has room for all"
        )


def _dealt_row_groups(
    images: Catalogue, reader: TableReader, places: Sequence[_Place]
) -> list[tuple[Indices, Indices]]:
    """Return by rank the numbers and rows of the images that it reads, in the order of their rows."""
    order = np.argsort(images.items["row"])
    rows = images.items["row"][order]
    groups = reader.groups(images.items)[order]
    dealt = []
    for place in places:
        own = (groups % place.size == place.rank) & (order < place.slots)
        dealt.append((order[own], rows[own]))
    return dealt
