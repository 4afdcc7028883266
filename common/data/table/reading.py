"""The images of a table, read by whoever works on them: no name, label or pixel passes through a driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.arrays import Labels, Pixels
from common.data.images import Block, Images
from common.data.splits import FoldRule, shard
from common.data.storage import Storage
from common.data.table.table import Table, TableFile
from common.errors import InputError


class Piece(NamedTuple):
    """The first `rows` images of a row group."""

    file: str
    group: int
    rows: int


class TableImages(Images):
    """The images of one split or of all.

    Args:
        table: whose.
        rule: how they are held out.
        split: "train", "test", or None for all.
        limit: so many of them, a share of every file; within a file, row groups at even distances are taken.
        without: identities of files to leave out.
    """

    decodes = False

    def __init__(
        self,
        table: Table,
        rule: FoldRule,
        split: str | None = None,
        limit: int | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self.table = table
        self.rule = rule
        self.split = split
        self._without = without
        self.shape = table.shape
        self.class_names = table.class_names
        # of all of the split, as the description has it: which classes a limit leaves is not known before reading
        counted = [counts for name, counts in table.class_counts.items() if split in (None, name)]
        self.class_counts: Labels = np.sum(counted, axis=0)
        own = [file for file in table.files if split in (None, file.split)]
        total = int(self.class_counts.sum())
        self._limit = total if limit is None else min(limit, total)
        self._pieces: list[Piece] = []
        before = 0
        self._identities: list[str] = []
        for file in own:
            share = self._limit * (before + file.rows) // total - self._limit * before // total
            before += file.rows
            if _identity(file) not in without and share:
                self._pieces += _pieces(file, share)
                self._identities.append(_identity(file) + (f"[:{share}]" if share < file.rows else ""))
        self._n = sum(piece.rows for piece in self._pieces)

    def __len__(self) -> int:
        return self._n

    @property
    def identities(self) -> frozenset[str]:
        """One a file: a hash of its images."""
        return frozenset(self._identities)

    def without(self, identities: frozenset[str]) -> TableImages:
        """The same but for some files."""
        return TableImages(self.table, self.rule, self.split, self._limit, self._without | identities)

    def parts(self, count: int) -> list[TablePart]:
        """Row groups in their order, in parts of even size."""
        count = max(1, min(count, len(self._pieces)))
        parts = []
        for rank in range(count):
            own = self._pieces[shard(len(self._pieces), rank, count)]
            parts.append(TablePart(self.table.storage, self.shape, len(self.class_names), self.rule, own))
        return parts


def _identity(file: TableFile) -> str:
    return file.file.rpartition("/")[2].partition(".")[0]


def _pieces(file: TableFile, rows: int) -> list[Piece]:
    """`rows` images of a file, from as few row groups as hold them, at even distances."""
    groups, wanted = ceil(file.rows / file.group_rows), ceil(rows / file.group_rows)
    # the last row group may be short, and is only taken where all are
    chosen = np.linspace(0, groups - 2, wanted).round().astype(int) if wanted < groups else np.arange(groups)
    pieces = []
    for group in chosen.tolist():
        there = min(file.group_rows, file.rows - group * file.group_rows, rows)
        pieces.append(Piece(file.file, group, there))
        rows -= there
    return pieces


@dataclass(frozen=True)
class TablePart:
    """Some row groups.

    Attributes:
        storage: where the table is.
        shape: (height, width, channels) of its images.
        n_classes: labels are below it.
        rule: how images are held out.
        pieces: which row groups.
    """

    storage: Storage
    shape: tuple[int, int, int]
    n_classes: int
    rule: FoldRule
    pieces: Sequence[Piece]

    def blocks(self, names: bool = False) -> Iterator[Block]:
        """A block a row group; only the columns that are needed are read, and no image becomes an object.

        Raises:
            InputError: a file is missing, damaged, or not of this table.
        """
        columns = ["pixels", "label", "fold", *(["name"] if names else [])]
        for file, pieces in groupby(self.pieces, key=lambda piece: piece.file):
            group = None
            try:
                with pq.ParquetFile(self.storage.open(file), page_checksum_verification=True) as opened:
                    for _, group, rows in pieces:
                        yield self._block(file, _row_group(opened, group, rows, columns))
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

    def _block(self, file: str, read: pa.Table) -> Block:
        pixels = _whole(read.column("pixels"))
        d = int(np.prod(self.shape))
        labels = read.column("label").to_numpy().astype(np.int64)
        if pixels.type != pa.binary(d) or pixels.null_count or not _all_below(labels, self.n_classes):
            raise InputError(f"{self.storage}/{file}: not of this table's shape and classes; ingest again")
        return Block(
            pixel_view(pixels).reshape(-1, *self.shape),
            labels,
            self.rule.of_buckets(read.column("fold").to_numpy()),
            _whole(read.column("name")) if "name" in read.column_names else None,
            [],
        )


def _row_group(opened: pq.ParquetFile, group: int, rows: int, columns: Sequence[str]) -> pa.Table:
    """The first rows of a row group."""
    read = opened.read_row_group(group, columns, use_threads=False).slice(0, rows)
    if len(read) < rows or set(columns) - set(read.column_names):
        raise OSError("it lacks rows or columns")
    return read


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column of a row group in one piece, as it is stored; combine_chunks would copy it all the same."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _all_below(labels: Labels, n_classes: int) -> bool:
    return not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < n_classes)


def pixel_view(pixels: pa.FixedSizeBinaryArray) -> Pixels:
    """The bytes of a fixed-size binary array as uint8 (n, d), without a copy."""
    d = pixels.type.byte_width
    start = pixels.offset * d
    return np.frombuffer(pixels.buffers()[1], np.uint8)[start : start + len(pixels) * d].reshape(-1, d)
