"""The images of a table, read by the workers that use them: no name, label or pixel passes through a driver."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.arrays import Folds, Labels, Pixels
from common.data.images import Block, Images, Sample
from common.data.splits import ALWAYS_TRAINING, FoldRule, shard
from common.data.storage import Storage
from common.data.table.pictures import thumbnails
from common.data.table.table import Table, TableFile
from common.errors import InputError

SAMPLE_FACTOR = 1.2
"""More images are read for a sample than are expected to suffice, because hashes decide which validate."""


class RowRange(NamedTuple):
    """The first `rows` images of a row group."""

    file: str
    group: int
    rows: int


class Listed(NamedTuple):
    """Images of a row group, without their pixels.

    Attributes:
        names: strings (n,).
        labels: int64 (n,).
        folds: int16 (n,), the fold that each validates.
    """

    names: NDArray[np.object_]
    labels: Labels
    folds: Folds


@dataclass(frozen=True)
class NameChoice:
    """The images that have one of some names, or that have none of them.

    Attributes:
        names: the names.
        wanted: True for the images that have one.
    """

    names: frozenset[str]
    wanted: bool

    @cached_property
    def values(self) -> pa.Array:
        """The names as Arrow compares them."""
        return pa.array(sorted(self.names), pa.string())

    def of(self, read: pa.Table) -> pa.Table:
        """Return the chosen rows."""
        among = pc.is_in(read.column("name"), value_set=self.values)
        return read.filter(among if self.wanted else pc.invert(among))


class TableImages(Images):
    """The images of one split of a table, or of both.

    Args:
        table: the table.
        rule: how images are held out.
        split: "train", "test", or None for both.
        limit: how many images to take: a share of every file, in row groups at even distances.
        without: identities of files to leave out.
        choice: which images to take, by their names; None for all. `len` and `class_counts` count all.
        classes: which images to take, by positions of their classes among the table's; None for all. Labels are
            positions among these classes. `len` counts all.
    """

    decodes = False

    def __init__(
        self,
        table: Table,
        rule: FoldRule,
        split: str | None = None,
        limit: int | None = None,
        without: frozenset[str] = frozenset(),
        choice: NameChoice | None = None,
        classes: tuple[int, ...] | None = None,
    ) -> None:
        self.table = table
        self.rule = rule
        self.split = split
        self._without = without
        self._choice = choice
        self._classes = classes
        self.shape = table.shape
        self.pixel_format = table.pixel_format
        self.class_names, self.class_ids = table.classes
        # the counts of the whole split, because the classes that a limit leaves are not known before reading
        counted = [counts for name, counts in table.class_counts.items() if split in (None, name)]
        self.class_counts: Labels = np.sum(counted, axis=0)
        files = [file for file in table.files if split in (None, file.split)]
        total = int(self.class_counts.sum())
        if classes is not None:
            self.class_names, self.class_ids = table.classes.at(classes)
            self.class_counts = self.class_counts[list(classes)]
        self._limit = total if limit is None else min(limit, total)
        self._ranges: list[RowRange] = []
        before = 0
        self._identities: list[str] = []
        for file in files:
            share = self._limit * (before + file.rows) // total - self._limit * before // total
            before += file.rows
            if _identity(file) not in without and share:
                self._ranges += _row_ranges(file, share)
                self._identities.append(_identity(file) + (f"[:{share}]" if share < file.rows else ""))
        self._n = sum(each.rows for each in self._ranges)

    def __len__(self) -> int:
        return self._n

    def sample(self, n: int, seed: int) -> Sample:
        """Read whole row groups at even distances, of which those that validate count."""
        wanted = min(len(self), ceil(SAMPLE_FACTOR * n * len(self) / max(1, self.n_sampled)))
        read = self._like(limit=wanted).load()
        training = np.flatnonzero(read.folds == ALWAYS_TRAINING)
        chosen = training if len(training) else np.arange(len(read.folds))
        order = np.random.default_rng([seed, *b"features"]).permutation(chosen)[:n]
        return Sample(read.pixels[order], read.labels[order])

    @property
    def n_sampled(self) -> int:
        """About the number of images that validate none, or of all."""
        return len(self) if self.rule.k else round(len(self) * (1 - self.rule.validation))

    @property
    def identities(self) -> frozenset[str]:
        """One fingerprint per file: a hash of its images."""
        return frozenset(self._identities)

    def without(self, identities: frozenset[str]) -> TableImages:
        """Return these images without the files of these identities."""
        return self._like(without=self._without | identities)

    def named(self, names: frozenset[str], wanted: bool) -> TableImages:
        """Return the images that have one of some names, or if they are not wanted, those that have none."""
        return self._like(choice=NameChoice(names, wanted))

    def of_classes(self, classes: Sequence[int]) -> TableImages:
        """Return the images of some of the table's classes, given by their positions in its list."""
        return self._like(classes=tuple(classes))

    def _like(self, **changes: Any) -> TableImages:
        own: dict[str, Any] = {
            "limit": self._limit,
            "without": self._without,
            "choice": self._choice,
            "classes": self._classes,
        }
        return TableImages(self.table, self.rule, self.split, **(own | changes))

    def thumbnails(self, names: Collection[str]) -> dict[str, Pixels | None]:
        """Look in the files of these images, whose names are read for that; in tables of features alone."""
        if self.table.features is None:
            return {}
        return thumbnails(self.table.storage, dict.fromkeys(each.file for each in self._ranges), names)

    def parts(self, count: int) -> list[TablePart]:
        """Return the row groups in their order, in parts of even size."""
        count = max(1, min(count, len(self._ranges)))
        parts = []
        for rank in range(count):
            ranges = self._ranges[shard(len(self._ranges), rank, count)]
            n_classes = len(self.table.class_names)
            choices = self._choice, self._classes
            parts.append(TablePart(self.table.storage, self.shape, n_classes, self.rule, ranges, *choices))
        return parts


def split_table(
    table: Table, spec: str, rule: FoldRule, limit: int | None = None
) -> tuple[TableImages, TableImages]:
    """Return the training and test images of a table, whose splits follow from the names of images.

    Args:
        table: the table.
        spec: the table as --data names it.
        rule: how images are held out.
        limit: the number of training images to take; None for all.

    Raises:
        InputError: a split is empty.
    """
    train, test = TableImages(table, rule, "train", limit), TableImages(table, rule, "test")
    for name, images in (("training", train), ("test", test)):
        if not len(images):
            raise InputError(f"--data {spec}: it has no {name} images; ingest more, or with another --test")
    return train, test


def _identity(file: TableFile) -> str:
    return file.file.rpartition("/")[2].partition(".")[0]


def _row_ranges(file: TableFile, rows: int) -> list[RowRange]:
    """Return `rows` images of a file, from as few row groups as hold them, at even distances."""
    groups, needed = ceil(file.rows / file.group_rows), ceil(rows / file.group_rows)
    # the last row group may be short, and is taken only if all are
    chosen = np.linspace(0, groups - 2, needed).round().astype(int) if needed < groups else np.arange(groups)
    ranges = []
    for group in chosen.tolist():
        n = min(file.group_rows, file.rows - group * file.group_rows, rows)
        ranges.append(RowRange(file.file, group, n))
        rows -= n
    return ranges


@dataclass(frozen=True)
class TablePart:
    """Some row groups of a table.

    Attributes:
        storage: the table's folder.
        shape: (height, width, channels) of its images.
        n_classes: the number of classes of the table, which all labels in it are below.
        rule: how images are held out.
        ranges: the images of this part.
        choice: which of them to take, by their names; None for all.
        classes: which of them to take, by their classes; None for all.
    """

    storage: Storage
    shape: tuple[int, int, int]
    n_classes: int
    rule: FoldRule
    ranges: Sequence[RowRange]
    choice: NameChoice | None = None
    classes: tuple[int, ...] | None = None

    def blocks(self, names: bool = False) -> Iterator[Block]:
        """Yield one block per row group; only the necessary columns are read, and no image becomes an object.

        Raises:
            InputError: a file is missing or damaged, or does not belong to this table.
        """
        for file, read in self._row_groups(["pixels", "label", "fold", *(["name"] if names else [])]):
            yield self._block(file, read, names)

    def listed(self) -> Iterator[Listed]:
        """Yield what is known of the images of each row group; their pixels are not read.

        Raises:
            InputError: as `blocks` does.
        """
        for file, read in self._row_groups(["label", "fold", "name"]):
            folds = self.rule.of_buckets(read.column("fold").to_numpy())
            yield Listed(read.column("name").to_numpy(), self._labels(file, read), folds)

    def _row_groups(self, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """Yield these columns of each row group, with the name of its file."""
        columns = columns if self.choice is None or "name" in columns else [*columns, "name"]
        for file, ranges in groupby(self.ranges, key=lambda each: each.file):
            group = None
            try:
                with pq.ParquetFile(self.storage.open(file), page_checksum_verification=True) as opened:
                    for _, group, rows in ranges:
                        read = _row_group(opened, group, rows, columns)
                        yield file, read if self.choice is None else self.choice.of(read)
            except FileNotFoundError as error:
                raise InputError(
                    f"{self.storage}/{file}: not there, though the table names it; ingest again"
                ) from error
            except (OSError, pa.ArrowException) as error:
                where = f"{self.storage}/{file}" + ("" if group is None else f": row group {group}")
                reason = str(error).splitlines()[0]
                raise InputError(
                    f"{where}: cannot be read ({reason}); delete the file and ingest again"
                ) from error

    def _block(self, file: str, read: pa.Table, names: bool) -> Block:
        pixels = _whole(read.column("pixels"))
        if pixels.type != pa.binary(int(np.prod(self.shape))) or pixels.null_count:
            raise self._foreign(file)
        labels = self._labels(file, read)
        if self.classes is not None:
            places = np.full(self.n_classes, -1)
            places[list(self.classes)] = np.arange(len(self.classes))
            labels = places[labels]
            rows = pa.array(np.flatnonzero(labels >= 0))
            read, pixels, labels = read.drop_columns("pixels").take(rows), pixels.take(rows), labels[labels >= 0]
        return Block(
            pixel_view(pixels).reshape(-1, *self.shape),
            labels,
            self.rule.of_buckets(read.column("fold").to_numpy()),
            _whole(read.column("name")) if names else None,
            [],
        )

    def _labels(self, file: str, read: pa.Table) -> Labels:
        labels: Labels = read.column("label").to_numpy().astype(np.int64)
        if not _all_below(labels, self.n_classes):
            raise self._foreign(file)
        return labels

    def _foreign(self, file: str) -> InputError:
        return InputError(f"{self.storage}/{file}: not of this table's shape and classes; ingest again")


def _row_group(opened: pq.ParquetFile, group: int, rows: int, columns: Sequence[str]) -> pa.Table:
    """Read the first rows of a row group.

    Raises:
        OSError: it lacks rows or columns.
    """
    read = opened.read_row_group(group, columns, use_threads=False).slice(0, rows)
    if len(read) < rows or set(columns) - set(read.column_names):
        raise OSError("it lacks rows or columns")
    return read


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of a row group as one array, without a copy if it is stored as one chunk.

    combine_chunks would copy that too.
    """
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _all_below(labels: Labels, n_classes: int) -> bool:
    return not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < n_classes)


def pixel_view(pixels: pa.FixedSizeBinaryArray) -> Pixels:
    """View the bytes of a fixed-size binary array as uint8 (n, d), without a copy."""
    d = pixels.type.byte_width
    start = pixels.offset * d
    return np.frombuffer(pixels.buffers()[1], np.uint8)[start : start + len(pixels) * d].reshape(-1, d)
