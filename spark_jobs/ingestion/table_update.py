"""A table that is being made or extended: executors write its files, the driver commits them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark import RDD

from common.arrays import Keys, Labels, Pixels
from common.data.catalogue import Skipped
from common.data.images import Block, readable_blocks
from common.data.storage import PARTIAL, Storage
from common.data.table.table import FEATURES, FILE, IMAGES, MANIFEST, QUARANTINED, REPORT, SPLITS, Table, TableFile
from common.data.table.writing import FileContent, TableSettings, WrittenFiles, read_content, write_files
from common.errors import InputError, RunError
from spark_jobs.ingestion.features import TableMap
from spark_jobs.ingestion.quarantine import (
    QuarantinedImage,
    quarantined_by_others,
    remove_other_quarantines,
    write_quarantine,
)

PARTIAL_FILE = re.compile(rf"(({IMAGES}|{QUARANTINED})/)?[0-9a-f]{{32}}\{PARTIAL}")
"""Matches a file that was being written when an ingest was killed."""

MOST_SHOWN = 30
"""Number of classes of which the report shows an image, at most."""

SAMPLES = 2 * MOST_SHOWN
"""Number of images that the executors send to the driver for the report, at most."""


class Destination(NamedTuple):
    """The table that an ingest writes to.

    Attributes:
        storage: location of the table.
        before: the table as it is before the ingest, or None if there is none.
    """

    storage: Storage
    before: Table | None

    @classmethod
    def open(cls, storage: Storage) -> Destination:
        """Read the table at a location, if there is one, and check that the location can be written.

        Raises:
            InputError: the location holds anything but a table, or cannot be written.
        """
        before = Table.open(storage) if Table.exists(storage) else None
        try:
            ours = {IMAGES, QUARANTINED, MANIFEST, REPORT, FEATURES}
            foreign = {name for name in storage.entries() - ours if not PARTIAL_FILE.fullmatch(name)}
            if foreign:
                raise InputError(
                    f"{storage}: holds {min(foreign)!r}, which does not belong to a table; name another DEST"
                )
            # write a probe, so that a read-only location is noticed now and not after an hour of work
            probe = f"{IMAGES}/{uuid.uuid4().hex}{PARTIAL}"
            storage.write(probe, b"")
            storage.delete(probe)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{storage}: cannot be written ({reason}); name another DEST") from error
        return cls(storage, before)


class Ingested(NamedTuple):
    """The result of an ingest.

    Attributes:
        table: the table as it is now.
        added: the number of images that were added.
        already: the number of names of the source that the table held before, and that were left alone.
        quarantined: all images that could not be used.
        samples: by label, one image uint8 (height, width, channels) for each of a few classes.
    """

    table: Table
    added: int
    already: int
    quarantined: list[Skipped]
    samples: dict[int, Pixels]


@dataclass
class TableUpdate:
    """A table that is being made or extended.

    Attributes:
        storage: location of the table.
        settings: how the table's files are made.
        before: the table as it was before, or None.
        kept: the files that need not be written again: the table's own, and those left by a killed ingest that
            had the same settings.
        features: the map that computes what is stored; None to store pixels.
    """

    storage: Storage
    settings: TableSettings
    before: Table | None
    kept: list[FileContent]
    features: TableMap | None = None

    @classmethod
    def open(
        cls, destination: Destination, settings: TableSettings, features: TableMap | None = None
    ) -> TableUpdate:
        """Find the files that can be kept, and remove what a killed ingest left half written.

        Raises:
            InputError: a file of the table cannot be read.
        """
        storage, before = destination
        present = set(storage.names(IMAGES))
        committed = [file.file for file in before.files] if before else []
        kept = [_content_of_table(storage, file) for file in committed if file in present]
        done = np.concatenate([np.empty(0, np.uint64), *(content.hashes for content in kept)])
        for file in sorted(present - set(committed)):
            if not FILE.fullmatch(file):
                continue
            content = _content_left(storage, file, settings)
            # dealt out in other parts, the same images may have been written into two files: keep one of them
            if content is not None and not np.isin(content.hashes, done).any():
                kept.append(content)
                done = np.concatenate([done, content.hashes])
            else:
                storage.delete(file)
        _remove_half_written(storage)
        return cls(storage, settings, before, kept, features)

    @property
    def lost(self) -> int:
        """The number of images of the table whose files somebody has removed."""
        kept = {content.file.file for content in self.kept}
        return sum(file.rows for file in (self.before.files if self.before else ()) if file.file not in kept)

    @cached_property
    def done(self) -> Keys:
        """Sorted keys of the names whose images need not be decoded again, uint64 (n,)."""
        return np.sort(np.concatenate([np.empty(0, np.uint64), *(content.hashes for content in self.kept)]))

    def write(self, blocks: RDD[Block], split: str | None) -> list[WrittenFiles]:
        """Write blocks on the executors: each partition writes at most one file per split.

        Args:
            blocks: images with their names.
            split: "train" or "test", or None to choose by the hashes of names or groups.
        """
        storage, settings, partitions = self.storage, self.settings, blocks.getNumPartitions()
        samples = ceil(SAMPLES / min(SAMPLES, partitions))
        shared = blocks.context.broadcast(self.features)

        def of_partition(part: int, own: Iterable[Block]) -> list[WrittenFiles]:
            # only the first partitions send samples: the driver holds few images however many partitions there are
            features = shared.value
            stored = own if features is None else features.stored(readable_blocks(own))
            return [write_files(storage, settings, stored, split, samples if part < SAMPLES else 0)]

        return blocks.mapPartitionsWithIndex(of_partition).collect()

    def commit(
        self,
        written: Sequence[WrittenFiles],
        n_listed: int,
        ignored: Mapping[str, int],
    ) -> Ingested:
        """Make everything that was written visible, all at once.

        Args:
            written: what the executors wrote.
            n_listed: the number of images that the source names.
            ignored: the number of files beside the images that are none, by kind.

        Raises:
            InputError: there is no image.
            RunError: another ingest has changed the table meanwhile, or it cannot be written.
        """
        source = self.settings.source
        files = {content.file.file: content.file for content in self.kept}
        files |= {file.file: file for part in written for file in part.files}
        reasons = {image.name: image.reason for part in written for image in part.skipped}
        self._check_unchanged()  # first, because another ingest may have removed files
        self._check_files(files, reasons)
        quarantined = [
            *quarantined_by_others(self.before, source),
            *(QuarantinedImage(name, reasons[name], source) for name in sorted(reasons)),
        ]
        self._check_unchanged()
        table = Table(
            storage=self.storage,
            shape=self.settings.shape,
            pixel_format=self.settings.pixel_format,
            class_names=self.settings.class_names,
            class_ids=self.settings.class_ids,
            features=self.features.describe() if self.features else None,
            grouped=self.settings.grouped,
            ignored=(self.before.ignored if self.before else {}) | {source: dict(ignored)},
            test_fraction=self.settings.test_fraction,
            files=tuple(files[name] for name in sorted(files)),
            class_counts=self._class_counts(written),
            quarantine=write_quarantine(self.storage, quarantined) if quarantined else None,
            quarantined=len(quarantined),
            sources=tuple(dict.fromkeys([*(self.before.sources if self.before else ()), source])),
        )
        table.save()
        remove_other_quarantines(self.storage, table.quarantine)
        _remove_half_written(self.storage)  # by tasks whose executor died
        added = sum(file.rows for part in written for file in part.files)
        return Ingested(
            table,
            added,
            n_listed - added - len(reasons),
            [Skipped(image.name, image.reason) for image in quarantined],
            _samples(written),
        )

    def _check_files(self, files: Mapping[str, TableFile], reasons: Mapping[str, str]) -> None:
        if not files:
            first = next((f" ({name}: {reason})" for name, reason in reasons.items()), "")
            raise InputError(f"{self.settings.source}: no image in it can be used{first}")
        if not files.keys() <= set(self.storage.names(IMAGES)):
            raise InputError(
                f"{self.storage}: files of workers are not visible here; name a DEST that all machines share, "
                "and let no other ingest write there meanwhile"
            )

    def _check_unchanged(self) -> None:
        current = Table.open(self.storage).files if Table.exists(self.storage) else None
        if current != (self.before.files if self.before else None):
            raise RunError(f"{self.storage}: another ingest changed the table meanwhile; run this one again")

    def _class_counts(self, written: Sequence[WrittenFiles]) -> dict[str, Labels]:
        """Count the images by split and label, int64 (n_classes,) per split."""
        n_classes = len(self.settings.class_names)
        counts = {split: np.zeros(n_classes, np.int64) for split in SPLITS}
        for content in self.kept:
            counts[content.file.split] += np.bincount(content.labels, minlength=n_classes)
        for part in written:
            for split, by_label in part.class_counts.items():
                for label, n in by_label.items():
                    counts[split][label] += n
        return counts


def _remove_half_written(storage: Storage) -> None:
    for folder in ("", IMAGES, QUARANTINED):
        for file in filter(PARTIAL_FILE.fullmatch, storage.names(folder)):
            with suppress(FileNotFoundError):  # a lost task may still be finishing one
                storage.delete(file)


def _samples(written: Sequence[WrittenFiles]) -> dict[int, Pixels]:
    """Return one image for each of at most MOST_SHOWN classes; of several, the one of the first part."""
    samples: dict[int, Pixels] = {}
    for part in written:
        samples = part.samples | samples
    return {label: samples[label] for label in sorted(samples)[:MOST_SHOWN]}


def _content_of_table(storage: Storage, file: str) -> FileContent:
    """Read the names and labels of a file of the table.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return read_content(storage, file)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        advice = "delete it, and ingest again what it was made from"
        raise InputError(f"{storage}/{file}: cannot be read ({reason}); {advice}") from error


def _content_left(storage: Storage, file: str, settings: TableSettings) -> FileContent | None:
    """Read the names and labels of a file that a killed ingest left, or return None if it is of no use."""
    try:
        content = read_content(storage, file)
    except (OSError, pa.ArrowException):
        return None
    return content if content.made_with(settings) else None
