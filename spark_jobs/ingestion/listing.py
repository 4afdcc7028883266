"""The images that a source names, dealt out to executors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
from pyspark import RDD, SparkContext

from common.arrays import Keys
from common.data.catalogue import Catalogue, Classes
from common.data.decode import PixelFormat
from common.data.images import Block, CataloguePart
from common.data.sources import check_groups, open_labelled
from common.data.sources.glob import Glob, is_glob
from common.data.sources.label_file import LabelFile
from common.data.sources.source import Splits
from common.data.splits import ALWAYS_TRAINING, stable_hashes
from common.data.table.writing import FileContent, TableSettings, name_keys, plain_names
from common.errors import InputError
from spark_jobs.engine.blocks import read_parts

PART_BYTES = 40 << 20
"""Bytes of pixels per file, at most."""

PART_DECODED = 8192
"""Images per file where images have to be decoded, at most: a killed ingest loses no more than this per core."""


@dataclass(frozen=True)
class Listing:
    """The images of a source; the driver knows their names and labels.

    Attributes:
        splits: its images.
    """

    splits: Splits

    @property
    def shape(self) -> tuple[int, int, int]:
        """The (height, width, channels) of every image."""
        return self.splits.train.shape

    @property
    def classes(self) -> Classes:
        """The classes that the source has."""
        return self.splits.train.classes

    @property
    def ignored(self) -> Mapping[str, int]:
        """The number of files beside the images that are none, by kind."""
        return self.splits.train.ignored

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for people about how the source was read."""
        return self.splits.notes

    @property
    def grouped(self) -> bool:
        """True if a label file gave the images groups."""
        return self.splits.train.groups is not None

    def _splits(self) -> list[tuple[Catalogue, str | None]]:
        learnt, test = self.splits.learnt, self.splits.test
        return [(learnt, None)] if test is None else [(learnt, "train"), (test, "test")]

    def blocks(
        self, context: SparkContext, settings: TableSettings, done: Keys
    ) -> Iterator[tuple[RDD[Block], str | None]]:
        """Yield the images to decode, as blocks with names, and the split that they belong to.

        Args:
            context: Spark.
            settings: how the table's files are made; labels are positions in its class names.
            done: sorted keys of the names to leave out, uint64 (n,).

        Yields:
            blocks, and "train", "test" or, where hashes of names or groups decide, None.
        """
        for catalogue, split in self._splits():
            parts = new_parts(relabelled(catalogue, settings.classes), done, context.defaultParallelism)
            if parts:
                yield read_parts(context, parts, names=True), split

    def count(self) -> int:
        """Return the number of images of all splits."""
        return sum(len(catalogue) for catalogue, _ in self._splits())

    def n_relabelled(self, classes: Classes, kept: Sequence[FileContent]) -> int:
        """Return the number of images that files of the table have with another class than the source says.

        Args:
            classes: the table's.
            kept: the names and labels of these files.
        """
        if not kept:
            return 0
        images = [relabelled(catalogue, classes) for catalogue, _ in self._splits()]
        keys = np.concatenate([name_keys(plain_names(each.names())) for each in images])
        order = np.argsort(keys, kind="stable")
        keys, labels = keys[order], np.concatenate([each.labels for each in images])[order]
        found, theirs = (
            np.concatenate(parts) for parts in zip(*((c.hashes, c.labels) for c in kept), strict=True)
        )
        at = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
        return int(((keys[at] == found) & (labels[at] != theirs)).sum())


def open_listing(
    source: str,
    data_root: Path,
    pixel_format: PixelFormat,
    shape: tuple[int, int, int] | None,
    labels: LabelFile | None = None,
) -> Listing:
    """List the images of a source.

    Args:
        source: a glob, or what --data takes.
        data_root: folder of the named sets.
        pixel_format: what images are decoded into.
        shape: the shape of the table's images, if there is a table already.
        labels: a file with the classes of the images of a folder; None if the source has them.

    Raises:
        InputError: there is no such source, or no image in it.
    """
    if not is_glob(source):
        splits = open_labelled(source, data_root, pixel_format, labels)
        check_groups(source, splits)
        return Listing(splits)
    if labels is not None:
        raise InputError(f"{labels.path}: label files are for folder:PATH, and in a glob the folder is the class")
    return Listing(Glob.of(source).open(pixel_format, shape))


def relabelled(catalogue: Catalogue, classes: Classes) -> Catalogue:
    """Return the same images with labels that are positions in `classes`, which has all of their classes."""
    labels = classes.positions(catalogue.classes)
    return replace(catalogue, labels=labels[catalogue.labels], class_names=classes.names, class_ids=classes.ids)


def new_parts(catalogue: Catalogue, done: Keys, cores: int) -> list[CataloguePart]:
    """Deal out the images of a catalogue that are not done, by the hashes of their names.

    Each part is therefore a sample of all images, whatever the order of the source.

    Args:
        catalogue: images whose class names are the table's.
        done: keys of the names to leave out, uint64 (n,).
        cores: the number of parts, at least, while there are images enough.
    """
    names = plain_names(catalogue.names())
    keys = name_keys(names)
    first = np.unique(keys, return_index=True)[1]  # Herbarium metadata may name a file twice
    new = np.sort(first[~np.isin(keys[first], done)])
    new = new[np.argsort(stable_hashes([names[i] for i in new])[:, 2], kind="stable")]
    rows = min(PART_BYTES // catalogue.n_pixels, PART_DECODED if catalogue.reader.decodes else PART_BYTES)
    n_parts = min(len(new), max(cores, ceil(len(new) / max(1, rows))))
    return [
        CataloguePart(
            catalogue.reader,
            catalogue.items[own],
            catalogue.labels[own],
            np.full(len(own), ALWAYS_TRAINING, np.int16),
            None if catalogue.groups is None else catalogue.groups[own],
        )
        for own in (np.array_split(new, n_parts) if n_parts else [])
    ]
