"""Images into a table: what the table does not hold yet is decoded on the executors and added."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import RDD, SparkContext

from common.arrays import Keys, Pixels
from common.data.catalogue import Catalogue, Skipped
from common.data.images import Block, CataloguePart
from common.data.splits import ALWAYS_TRAINING, stable_hashes
from common.data.storage import PARTIAL, Storage
from common.data.table.table import FILE, IMAGES, MANIFEST, QUARANTINE, QUARANTINED, REPORT, SPLITS, Table
from common.data.table.writing import Content, Settings, Written, name_keys, plain_names, read_content, write_files
from common.errors import InputError
from spark_jobs.engine.blocks import read_parts

PART_BYTES = 40 << 20
"""Pixels of one file, at most."""

PARTIAL_FILE = re.compile(rf"(({IMAGES}|{QUARANTINED})/)?[0-9a-f]{{32}}\{PARTIAL}")
"""What was being written when an ingest was killed."""

MOST_SHOWN = 30
"""Classes of which the report shows an image."""

SAMPLES = 2 * MOST_SHOWN
"""Images that are sent to the driver for that, at most."""

PART_DECODED = 8192
"""Images of one file where they have to be decoded, at most: what a killed ingest may lose on each core."""


@dataclass
class Ingest:
    """A table in the making.

    Attributes:
        storage: where it is.
        settings: how its files are made.
        before: the table as it was, if there was one.
        known: files that are there: the table's own, and those that a killed ingest of the same source wrote.
    """

    storage: Storage
    settings: Settings
    before: Table | None
    known: list[Content]

    @classmethod
    def open(cls, storage: Storage, settings: Settings, before: Table | None) -> Ingest:
        """Find out what is there, and remove what an ingest that was killed left half written.

        Raises:
            InputError: a file of the table cannot be read.
        """
        there, own = set(storage.names(IMAGES)), [file.file for file in before.files] if before else []
        known = [_content_of_table(storage, file) for file in own if file in there]
        done = np.concatenate([np.empty(0, np.uint64), *(content.hashes for content in known)])
        for file in sorted(there - set(own)):
            content = _content_left(storage, file, settings) if FILE.fullmatch(file) else None
            # dealt out otherwise, the same images may have been written into two files: one of them counts
            if content is not None and not np.isin(content.hashes, done).any():
                known.append(content)
                done = np.concatenate([done, content.hashes])
            elif FILE.fullmatch(file):
                storage.delete(file)
        for folder in ("", IMAGES, QUARANTINED):
            for file in filter(PARTIAL_FILE.fullmatch, storage.names(folder)):
                storage.delete(file)
        return cls(storage, settings, before, known)

    @property
    def lost(self) -> int:
        """How many images of the table were in files that somebody has removed."""
        there = {content.file.file for content in self.known}
        return sum(file.rows for file in (self.before.files if self.before else ()) if file.file not in there)

    @staticmethod
    def check_destination(storage: Storage) -> None:
        """Refuse a folder that holds anything but a table.

        Raises:
            InputError: it does, or it cannot be written.
        """
        try:
            ours = {IMAGES, QUARANTINED, MANIFEST, REPORT}
            foreign = {name for name in storage.entries() - ours if not PARTIAL_FILE.fullmatch(name)}
            if foreign:
                raise InputError(f"{storage}: holds {min(foreign)!r}, which is of no table; name another DEST")
            probe = f"{IMAGES}/{uuid.uuid4().hex}{PARTIAL}"
            storage.write(probe, b"")  # whether it can be written shows now and not after an hour of work
            storage.delete(probe)
        except OSError as error:
            raise InputError(
                f"{storage}: cannot be written ({error.strerror or error}); name another DEST"
            ) from error

    @cached_property
    def done(self) -> Keys:
        """Keys of the names that need not be read again, sorted."""
        return np.sort(np.concatenate([np.empty(0, np.uint64), *(content.hashes for content in self.known)]))

    def parts(self, catalogue: Catalogue, cores: int) -> list[CataloguePart]:
        """What is new of a catalogue whose class names are the table's, dealt out by the hashes of the names.

        Each part is a sample of all images, whatever order the source has them in.
        """
        names = plain_names(catalogue.names())
        keys = name_keys(names)
        first = np.unique(keys, return_index=True)[1]  # Herbarium metadata may name a file twice
        new = np.sort(first[~np.isin(keys[first], self.done)])
        new = new[np.argsort(stable_hashes([names[i] for i in new])[:, 2], kind="stable")]
        rows = min(PART_BYTES // catalogue.n_pixels, PART_DECODED if catalogue.reader.decodes else PART_BYTES)
        count = min(len(new), max(cores, ceil(len(new) / max(1, rows))))
        return [
            CataloguePart(
                catalogue.reader,
                catalogue.items[own],
                catalogue.labels[own],
                np.full(len(own), ALWAYS_TRAINING, np.int16),
            )
            for own in (np.array_split(new, count) if count else [])
        ]

    def write_catalogue(self, context: SparkContext, catalogue: Catalogue, split: str | None) -> list[Written]:
        """Decode what is new of a catalogue on the executors and write it, a file or two a part."""
        parts = self.parts(catalogue, context.defaultParallelism)
        if not parts:
            return []
        return self.write(read_parts(context, parts, names=True), split)

    def write(self, blocks: RDD[Block], split: str | None) -> list[Written]:
        """Write blocks on the executors, a file or two a partition."""
        storage, settings, partitions = self.storage, self.settings, blocks.getNumPartitions()
        samples = ceil(SAMPLES / min(SAMPLES, partitions))

        def of_partition(part: int, own: Iterable[Block]) -> list[Written]:
            # of the first partitions only: the driver holds a few images, however many partitions there are
            return [write_files(storage, settings, own, split, samples if part < SAMPLES else 0)]

        return blocks.mapPartitionsWithIndex(of_partition).collect()

    def commit(self, written: Sequence[Written], skipped: Sequence[Skipped], listed: int) -> Ingested:
        """Make what was written visible, all at once.

        Args:
            written: what the executors wrote.
            skipped: images that could not be used and that no executor saw.
            listed: how many images the source has.

        Raises:
            InputError: there is no image, or somebody else changed the table meanwhile.
        """
        source = self.settings.source
        files = {content.file.file: content.file for content in self.known}
        counts = {split: np.zeros(len(self.settings.class_names), np.int64) for split in SPLITS}
        for content in self.known:
            counts[content.file.split] += np.bincount(content.labels, minlength=len(self.settings.class_names))
        samples: dict[int, Pixels] = {}
        bad = {image.name: image.reason for image in skipped}
        added = 0
        for part in written:
            files |= {file.file: file for file in part.files}
            added += sum(file.rows for file in part.files)
            for split, own in part.class_counts.items():
                for label, n in own.items():
                    counts[split][label] += n
            bad |= {image.name: image.reason for image in part.skipped}
            samples = part.samples | samples
        if not files:
            first = next((f" ({name}: {reason})" for name, reason in bad.items()), "")
            raise InputError(f"{source}: no image in it can be used{first}")
        if not files.keys() <= set(self.storage.names(IMAGES)):
            raise InputError(f"{self.storage}: what workers wrote does not arrive here; name a DEST that all see")
        quarantine = [*self._quarantined_before(source), *(Bad(name, bad[name], source) for name in sorted(bad))]
        current = Table.open(self.storage).files if Table.exists(self.storage) else None
        if current != (self.before.files if self.before else None):
            raise InputError(f"{self.storage}: another ingest changed the table meanwhile; run this one again")
        table = Table(
            storage=self.storage,
            shape=self.settings.shape,
            pixel_format=self.settings.pixel_format,
            class_names=self.settings.class_names,
            test_fraction=self.settings.test_fraction,
            files=tuple(files[name] for name in sorted(files)),
            class_counts=counts,
            quarantine=self._write_quarantine(quarantine) if quarantine else None,
            quarantined=len(quarantine),
            sources=tuple(dict.fromkeys([*(self.before.sources if self.before else ()), source])),
        )
        table.save()
        for file in self.storage.names(QUARANTINED):
            if file != table.quarantine and QUARANTINE.fullmatch(file):
                self.storage.delete(file)
        shown = {label: samples[label] for label in sorted(samples)[:MOST_SHOWN]}
        return Ingested(
            table, added, listed - added - len(bad), [Skipped(bad.name, bad.reason) for bad in quarantine], shown
        )

    def _quarantined_before(self, source: str) -> list[Bad]:
        """What other sources could not give: this one's unusable images were all tried again."""
        if self.before is None or self.before.quarantine is None:
            return []
        try:
            rows = pq.read_table(self.storage.open(self.before.quarantine)).to_pylist()
        except (OSError, pa.ArrowException):
            return []  # a list of what is not there is not worth an ingest
        return [Bad(**row) for row in rows if row["source"] != source]

    def _write_quarantine(self, bad: Sequence[Bad]) -> str:
        columns = {field: [getattr(row, field) for row in bad] for field in Bad._fields}
        with self.storage.writing(QUARANTINED) as file:
            pq.write_table(pa.table(columns, schema=QUARANTINE_SCHEMA), file.stream)
            file.name = f"{QUARANTINED}/{uuid.uuid4().hex}.parquet"
        return file.name


def _content_of_table(storage: Storage, file: str) -> Content:
    """What is in a file of the table.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_content(storage, file)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        advice = "delete it, and ingest again what it was made from"
        raise InputError(f"{storage}/{file}: cannot be read ({reason}); {advice}") from error


def _content_left(storage: Storage, file: str, settings: Settings) -> Content | None:
    """What is in a file that a killed ingest left, if it is of any use."""
    try:
        content = read_content(storage, file)
    except (OSError, pa.ArrowException):
        return None
    return content if content.made_with(settings) else None


class Bad(NamedTuple):
    """An image in the quarantine, why it is there, and the source that named it."""

    name: str
    reason: str
    source: str


QUARANTINE_SCHEMA = pa.schema([(field, pa.string()) for field in Bad._fields])


class Ingested(NamedTuple):
    """What came of it.

    Attributes:
        table: as it is now.
        added: how many images are new.
        already: how many names of the source were there before, and were left alone.
        quarantined: all that could not be used.
        samples: an image of each of a few classes, uint8 (height, width, channels), by label.
    """

    table: Table
    added: int
    already: int
    quarantined: list[Skipped]
    samples: dict[int, Pixels]
