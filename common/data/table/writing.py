"""Writing the files of a table, wherever the images are decoded."""

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
from common.atomic import READABLE
from common.data.catalogue import Skipped
from common.data.decode import PixelFormat
from common.data.images import Block
from common.data.splits import hashed_buckets, hashed_test, stable_hashes
from common.data.storage import Storage, Writing
from common.data.table.table import FORMAT, IMAGES, SPLITS, TableFile

GROUP_BYTES = 4 << 20
"""Pixels of one row group: what a reader holds at a time."""

SORTED_GROUPS = 16
"""Row groups that are put into the order of their names' hashes together, so that a part of a file is a sample."""

LZ4_LEVEL = 6
"""How hard to compress pixels: to read them costs half of what Zstandard takes, for half as many bytes again.

A reader that multiplies matrices is short of time and not of disk. Level 6 takes 7 µs to write a digit of MNIST
where level 1 takes 1, and makes it an eighth smaller and a quarter faster to read, again and again.
"""

SETTINGS, SOURCE = b"image_table", b"image_source"
"""Keys of a file's metadata under which it says how and from what it was made."""


@dataclass(frozen=True)
class Settings:
    """How the files of a table are made; files made otherwise do not belong to it.

    Attributes:
        shape: (height, width, channels).
        pixel_format: what images are turned into.
        class_names: one name a class.
        test_fraction: of names, held out for the test where the source does not say.
        source: what the images are from; the same images from elsewhere are the same all the same.
    """

    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    class_names: tuple[str, ...]
    test_fraction: float
    source: str

    def metadata(self) -> dict[bytes, bytes]:
        """What each file says of itself."""
        digest = hashlib.sha256("\0".join(self.class_names).encode()).hexdigest()
        said = {**asdict(self), "class_names": digest, "format": FORMAT}
        del said["source"]
        return {SETTINGS: json.dumps(said, sort_keys=True).encode(), SOURCE: self.source.encode(*READABLE)}

    def schema(self) -> pa.Schema:
        """The columns of each file."""
        fields = [
            pa.field("pixels", pa.binary(int(np.prod(self.shape))), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("name", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("fold", pa.int16(), nullable=False),
        ]
        return pa.schema(fields, metadata=self.metadata())


class Written(NamedTuple):
    """What one worker made of its images.

    Attributes:
        files: at most one a split.
        class_counts: by split, images by label.
        skipped: the images that could not be used.
        samples: an image of each of a few classes, by label.
    """

    files: list[TableFile]
    class_counts: dict[str, dict[int, int]]
    skipped: list[Skipped]
    samples: dict[int, Pixels]


def write_files(
    storage: Storage, settings: Settings, blocks: Iterable[Block], split: str | None, samples: int
) -> Written:
    """Write images, a file a split, named by a hash of what is in it: to write them again changes nothing.

    Memory is bounded by SORTED_GROUPS row groups a split, however many images come.

    Args:
        storage: where the table is.
        settings: how its files are made.
        blocks: images with their names.
        split: "train" or "test", or None to go by the hashes of the names.
        samples: of so many classes an image is returned.
    """
    written = Written([], {name: {} for name in SPLITS}, [], {})
    with ExitStack() as stack:
        files: dict[str, _FileInTheMaking] = {}
        for block in blocks:
            written.skipped.extend(block.skipped)
            names = np.array(plain_names(block.names or ()), dtype=object)
            hashes = stable_hashes(names)
            in_test = (
                hashed_test(hashes, settings.test_fraction)
                if split is None
                else np.full(len(names), split == "test")
            )
            for name, rows in (("train", np.flatnonzero(~in_test)), ("test", np.flatnonzero(in_test))):
                if not len(rows):
                    continue
                if name not in files:
                    files[name] = _FileInTheMaking(settings, name, stack.enter_context(storage.writing(IMAGES)))
                    stack.callback(files[name].writer.close)
                files[name].add(
                    Rows(block.pixels[rows].reshape(len(rows), -1), block.labels[rows], names[rows], hashes[rows])
                )
                _count(block, rows, written.class_counts[name], written.samples, samples)
        written.files.extend(file.finish() for file in files.values())
    return written


def _count(block: Block, rows: Indices, counts: dict[int, int], samples: dict[int, Pixels], most: int) -> None:
    labels, first, n = np.unique(block.labels[rows], return_index=True, return_counts=True)
    for label, position, count in zip(labels.tolist(), first, n.tolist(), strict=True):
        counts[label] = counts.get(label, 0) + count
        if label not in samples and len(samples) < most:
            samples[label] = block.pixels[rows[position]].copy()


class Rows(NamedTuple):
    """Images on their way into a file: uint8 (n, d), int64 (n,), objects (n,), uint32 (n, HASHES)."""

    pixels: Pixels
    labels: Labels
    names: NDArray[Any]
    hashes: Hashes

    def take(self, rows: Indices | slice) -> Rows:
        """Some of them, in the order asked for."""
        return Rows(self.pixels[rows], self.labels[rows], self.names[rows], self.hashes[rows])


@dataclass
class _FileInTheMaking:
    """One Parquet file.

    Encodings and statistics that could say nothing of pixels are left out; checksums tell damage from pixels.
    """

    settings: Settings
    split: str
    writing: Writing
    waiting: list[Rows] = field(default_factory=list)
    n_waiting: int = 0
    rows: int = 0

    def __post_init__(self) -> None:
        self.schema = self.settings.schema()
        self.d = int(np.prod(self.settings.shape))
        self.group_rows = max(1, GROUP_BYTES // self.d)
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
        """Take images, and write those that have waited for enough others."""
        self.waiting.append(rows)
        self.n_waiting += len(rows.labels)
        if self.n_waiting >= SORTED_GROUPS * self.group_rows:
            self._write(SORTED_GROUPS * self.group_rows)

    def _write(self, n: int) -> None:
        """Write the first n images that wait, in the order of their hashes."""
        pixels, labels, names, hashes = zip(*self.waiting, strict=True)
        together = Rows(
            np.concatenate(pixels), np.concatenate(labels), np.concatenate(names), np.concatenate(hashes)
        )
        first = together.take(np.argsort(together.hashes[:n, 2], kind="stable"))
        self.waiting = [together.take(slice(n, None))]
        self.n_waiting -= len(first.labels)
        self.rows += len(first.labels)
        folds = hashed_buckets(first.hashes)
        for column in (first.pixels, first.labels, folds):
            self.digest.update(column.data)
        self.digest.update("\0".join(first.names).encode())
        rows = len(first.labels)
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(self.d), rows, [None, pa.py_buffer(first.pixels)]),
            pa.array(first.labels.astype(np.int32)),
            pa.array(first.names, pa.string()),
            pa.array([self.split], pa.string()).take(pa.array(np.zeros(rows, np.int8))),
            pa.array(folds),
        ]
        self.writer.write_table(pa.table(columns, schema=self.schema), row_group_size=self.group_rows)

    def finish(self) -> TableFile:
        """Write what still waits and give the file its name."""
        if self.n_waiting:
            self._write(self.n_waiting)
        self.writing.name = f"{IMAGES}/{self.split}-{self.digest.hexdigest()}.parquet"
        return TableFile(self.writing.name, self.split, self.rows, min(self.rows, self.group_rows))


@dataclass(frozen=True)
class Content:
    """What is in a file that was written before.

    Attributes:
        file: the file.
        hashes: uint64 (n,), of the names.
        labels: int64 (n,).
        said: what the file says of how it was made.
    """

    file: TableFile
    hashes: Keys
    labels: Labels
    said: dict[bytes, bytes]

    def made_with(self, settings: Settings) -> bool:
        """Whether it was made in this way, from this source."""
        return all(self.said.get(key) == own for key, own in settings.metadata().items())


def plain_names(names: Iterable[object]) -> list[str]:
    """Names as a table holds them: bytes that are no text are spelt out."""
    return [str(name).encode(*READABLE).decode() for name in names]


def name_keys(names: Iterable[str]) -> Keys:
    """Keys by which names are compared, uint64 (n,)."""
    hashes = stable_hashes(names).astype(np.uint64)
    return hashes[:, 0] << np.uint64(32) | hashes[:, 1]


def read_content(storage: Storage, file: str) -> Content:
    """Names and labels of a file in `storage`.

    Raises:
        OSError: it is not there, or cannot be read.
        pyarrow.ArrowException: it is damaged.
    """
    with pq.ParquetFile(storage.open(file), page_checksum_verification=True) as opened:
        said = opened.schema_arrow.metadata or {}
        rows, group_rows = opened.metadata.num_rows, opened.metadata.row_group(0).num_rows
        read = opened.read(["name", "label"])
    split = file.rpartition("/")[2].partition("-")[0]
    labels = read.column("label").to_numpy().astype(np.int64)
    hashes = name_keys(read.column("name").to_pylist())
    return Content(TableFile(file, split, rows, group_rows), hashes, labels, said)
