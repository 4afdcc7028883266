"""Write the files of a table, on the workers that decode the images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.arrays import Hashes, Indices, Keys, Labels, Pixels
from common.atomic import READABLE, readable
from common.data.catalogue import Classes, Skipped
from common.data.decode import PixelFormat
from common.data.images import Block, readable_blocks
from common.data.splits import hashed_buckets, hashed_test, image_hashes, stable_hashes
from common.data.storage import Storage, Writing, writing_to
from common.data.table.table import FORMAT, IMAGES, SPLITS, THUMBNAIL, TableFile
from common.data.thumbnails import picture_of

GROUP_BYTES = 4 << 20
"""Pixels of one row group, which a reader holds at once."""

GROUP_THUMBNAILS = 4096
"""Rows of a row group with thumbnails, at most: they take about 5 MB."""

SORTED_GROUPS = 16
"""Row groups whose images are sorted together by hashes of their names, so that a part of a file is a sample."""

LZ4_LEVEL = 6
"""Compression level of pixels. LZ4 reads in half the time of Zstandard, for one and a half times the bytes.

A reader that multiplies matrices is short of time and not of disk. Level 6 takes 7 µs to write a digit of MNIST
where level 1 takes 1 µs, and makes it an eighth smaller and a quarter faster to read, again and again.
"""

SETTINGS, SOURCE = b"image_table", b"image_source"
"""Keys in the metadata of a file: the settings and the source that it was made with."""


@dataclass(frozen=True)
class TableSettings:
    """Settings that the files of a table are made with; files made with others do not belong to it.

    Attributes:
        shape: (height, width, channels).
        pixel_format: what images are decoded into.
        class_names: one name per class.
        test_fraction: the fraction of names held out for the test if the source has no test set.
        source: the source of the images. It does not enter the hashes of files: equal images are equal from any
            source.
        class_ids: the source's own identifiers of the classes; None if those are the names.
        features: the digest of the map that computes what is stored; None if that is pixels.
        grouped: True if images have groups, whose hashes decide about split and fold.
    """

    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    class_names: tuple[str, ...]
    test_fraction: float
    source: str
    class_ids: tuple[str, ...] | None = None
    features: str | None = None
    grouped: bool = False

    @property
    def classes(self) -> Classes:
        """Names and ids of the classes."""
        return Classes(self.class_names, self.class_ids)

    def metadata(self) -> dict[bytes, bytes]:
        """Return the metadata of each file."""
        digest = hashlib.sha256("\0".join(self.classes.keys).encode()).hexdigest()
        pixel_format = self.pixel_format.described()
        described = {**asdict(self), "pixel_format": pixel_format, "class_names": digest, "format": FORMAT}
        del described["source"], described["class_ids"]
        if self.features is None:
            del described["features"]  # files of versions that stored nothing but pixels lack it
        if not self.grouped:
            del described["grouped"]  # so do files of versions that knew no groups
        return {SETTINGS: json.dumps(described, sort_keys=True).encode(), SOURCE: self.source.encode(*READABLE)}

    def schema(self) -> pa.Schema:
        """Return the columns of each file."""
        fields = [
            pa.field("pixels", pa.binary(int(np.prod(self.shape))), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("name", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("fold", pa.int16(), nullable=False),
        ]
        if self.features is not None:
            fields.append(pa.field(THUMBNAIL, pa.binary(), nullable=False))
        return pa.schema(fields, metadata=self.metadata())


class WrittenFiles(NamedTuple):
    """The files that one worker wrote.

    Attributes:
        files: at most one per split.
        class_counts: by split, the number of images by label.
        skipped: the images that could not be used.
        samples: one image of each of a few classes, by label.
    """

    files: list[TableFile]
    class_counts: dict[str, dict[int, int]]
    skipped: list[Skipped]
    samples: dict[int, Pixels]


def write_files(
    storage: Storage, settings: TableSettings, blocks: Iterable[Block], split: str | None, samples: int
) -> WrittenFiles:
    """Write images into one file per split.

    A file is named by a hash of its contents, so writing the same images again changes nothing.
    Memory is bounded by SORTED_GROUPS row groups per split, however many images there are.

    Args:
        storage: the table's folder.
        settings: how its files are made.
        blocks: images with their names; features with thumbnails besides.
        split: "train" or "test", or None to decide by the hashes of the names, or of groups if there are any.
        samples: the number of classes of which one image is returned.

    Raises:
        InputError: images cannot be read.
        RunError: the table cannot be written.
    """
    written = WrittenFiles([], {name: {} for name in SPLITS}, [], {})
    with writing_to(storage), ExitStack() as stack:
        files: dict[str, _FileWriter] = {}
        for block in readable_blocks(blocks):
            written.skipped.extend(block.skipped)
            names = np.array(plain_names(block.names or ()), dtype=object)
            hashes = image_hashes(names, block.groups)
            in_test = (
                hashed_test(hashes, settings.test_fraction)
                if split is None
                else np.full(len(names), split == "test")
            )
            for name, rows in (("train", np.flatnonzero(~in_test)), ("test", np.flatnonzero(in_test))):
                if not len(rows):
                    continue
                if name not in files:
                    files[name] = _FileWriter(settings, name, stack.enter_context(storage.writing(IMAGES)))
                    stack.callback(files[name].writer.close)
                pixels = block.pixels[rows].reshape(len(rows), -1)
                pictures = np.array(block.thumbnails or [b""] * len(names), object)
                files[name].add(Rows(pixels, block.labels[rows], names[rows], hashes[rows], pictures[rows]))
                _count(block, rows, written.class_counts[name], written.samples, samples)
        written.files.extend(file.finish() for file in files.values())
    return written


def _count(block: Block, rows: Indices, counts: dict[int, int], samples: dict[int, Pixels], most: int) -> None:
    labels, first, n = np.unique(block.labels[rows], return_index=True, return_counts=True)
    for label, position, count in zip(labels.tolist(), first, n.tolist(), strict=True):
        counts[label] = counts.get(label, 0) + count
        if label not in samples and len(samples) < most:
            row = rows[position]
            kept = block.thumbnails
            samples[label] = block.pixels[row].copy() if kept is None else picture_of(kept[row])


class Rows(NamedTuple):
    """Images to be written to a file: uint8 (n, d), int64 (n,), objects (n,), uint32 (n, HASHES), objects (n,)."""

    pixels: Pixels
    labels: Labels
    names: NDArray[Any]
    hashes: Hashes
    thumbnails: NDArray[Any]

    def take(self, rows: Indices | slice) -> Rows:
        """Return these rows, in this order."""
        columns: list[Any] = [column[rows] for column in self]
        return Rows(*columns)


@dataclass
class _FileWriter:
    """Writes one Parquet file.

    Encodings and statistics are left out for pixels, which gain nothing from them. Checksums reveal damage.
    """

    settings: TableSettings
    split: str
    writing: Writing
    waiting: list[Rows] = field(default_factory=list)
    n_waiting: int = 0
    rows: int = 0

    def __post_init__(self) -> None:
        self.schema = self.settings.schema()
        self.d = int(np.prod(self.settings.shape))
        self.group_rows = max(1, GROUP_BYTES // self.d)
        if self.settings.features is not None:
            self.group_rows = min(self.group_rows, GROUP_THUMBNAILS)
        self.digest = hashlib.blake2b(self.settings.metadata()[SETTINGS] + self.split.encode(), digest_size=16)
        self.writer = pq.ParquetWriter(
            self.writing.stream,
            self.schema,
            compression="lz4",
            compression_level={"pixels": LZ4_LEVEL},
            use_dictionary=["label", "split"],
            write_statistics=["label", "fold"],
            write_page_checksum=True,
            data_page_size=GROUP_BYTES,
        )

    def add(self, rows: Rows) -> None:
        """Add images, and write some once enough of them are waiting."""
        self.waiting.append(rows)
        self.n_waiting += len(rows.labels)
        if self.n_waiting >= SORTED_GROUPS * self.group_rows:
            self._write(SORTED_GROUPS * self.group_rows)

    def _write(self, n: int) -> None:
        """Write the first n waiting images in the order of their hashes."""
        columns: list[Any] = [np.concatenate(column) for column in zip(*self.waiting, strict=True)]
        together = Rows(*columns)
        first = together.take(np.argsort(together.hashes[:n, 2], kind="stable"))
        self.waiting = [together.take(slice(n, None))]
        self.n_waiting -= len(first.labels)
        self.rows += len(first.labels)
        folds = hashed_buckets(first.hashes)
        for column in (first.pixels, first.labels, folds):
            self.digest.update(column.data)
        self.digest.update("\0".join(first.names).encode())
        # thumbnails have no part in it: they follow from the images, up to what a version of Pillow makes of them
        rows = len(first.labels)
        arrays = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(self.d), rows, [None, pa.py_buffer(first.pixels)]),
            pa.array(first.labels.astype(np.int32)),
            pa.array(first.names, pa.string()),
            pa.array([self.split], pa.string()).take(pa.array(np.zeros(rows, np.int8))),
            pa.array(folds),
        ]
        if self.settings.features is not None:
            arrays.append(pa.array(first.thumbnails, pa.binary()))
        self.writer.write_table(pa.table(arrays, schema=self.schema), row_group_size=self.group_rows)

    def finish(self) -> TableFile:
        """Write the waiting images and give the file its name."""
        if self.n_waiting:
            self._write(self.n_waiting)
        self.writing.name = f"{IMAGES}/{self.split}-{self.digest.hexdigest()}.parquet"
        return TableFile(self.writing.name, self.split, self.rows, min(self.rows, self.group_rows))


@dataclass(frozen=True)
class FileContent:
    """The contents of a file that was written before, without pixels.

    Attributes:
        file: the file.
        hashes: uint64 (n,), keys of the names.
        labels: int64 (n,).
        metadata: the metadata of the file.
    """

    file: TableFile
    hashes: Keys
    labels: Labels
    metadata: dict[bytes, bytes]

    def made_with(self, settings: TableSettings) -> bool:
        """Return True if the file was made with these settings, from the same source."""
        return all(self.metadata.get(key) == value for key, value in settings.metadata().items())


def plain_names(names: Iterable[object]) -> list[str]:
    """Return names as a table holds them: bytes that are no valid text are escaped."""
    return [readable(str(name)) for name in names]


def name_keys(names: Iterable[str]) -> Keys:
    """Return keys by which names are compared, uint64 (n,)."""
    hashes = stable_hashes(names).astype(np.uint64)
    return hashes[:, 0] << np.uint64(32) | hashes[:, 1]


def read_content(storage: Storage, file: str) -> FileContent:
    """Read names and labels of a file in `storage`.

    Raises:
        OSError: the file does not exist or cannot be read.
        pyarrow.ArrowException: the file is damaged.
    """
    with pq.ParquetFile(storage.open(file), page_checksum_verification=True) as opened:
        metadata = opened.schema_arrow.metadata or {}
        rows, group_rows = opened.metadata.num_rows, opened.metadata.row_group(0).num_rows
        read = opened.read(["name", "label"])
    split = file.rpartition("/")[2].partition("-")[0]
    labels = read.column("label").to_numpy().astype(np.int64)
    hashes = name_keys(read.column("name").to_pylist())
    return FileContent(TableFile(file, split, rows, group_rows), hashes, labels, metadata)
