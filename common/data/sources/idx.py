"""IDX files, compressed by gzip or not: the format of MNIST as published (LeCun, Cortes, Burges)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from common.arrays import Items
from common.data.catalogue import Catalogue, ReadResult
from common.data.decode import PixelFormat, reformat
from common.errors import InputError

UNSIGNED_BYTE = 0x08
CHUNK = 1 << 20


def find(folder: Path, stem: str, remedy: str) -> Path:
    """Return the path of `stem` or `stem.gz` in `folder`, the uncompressed file first, also as Kaggle names them.

    Args:
        folder: where to look.
        stem: the name of the file.
        remedy: how to get it.

    Raises:
        InputError: there is neither.
    """
    dotted = stem.replace("-idx", ".idx")  # as Kaggle's copies are called
    for name in (stem, f"{stem}.gz", dotted, f"{dotted}.gz"):
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for name in (stem, dotted) for path in folder.glob(f"*{name}*"))
    hint = f" (there is {others[0]}: rename the files of one set)" if others else ""
    raise InputError(f"{folder / stem}[.gz]: not found{hint}; {remedy}, or use --data digits")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def read_header(path: Path, dimensions: int) -> tuple[int, ...]:
    """Return the lengths of an IDX file's axes, after checking the whole file against them.

    The file is streamed and never held in memory.

    Raises:
        InputError: the magic number is wrong, the gzip stream is damaged, or the file holds more or fewer bytes
            than its header says.
    """
    try:
        with _open(path) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTE or magic[3] != dimensions:
                raise InputError(
                    f"{path}: magic number {magic.hex() or 'missing'}, not "
                    f"{bytes([0, 0, UNSIGNED_BYTE, dimensions]).hex()} of a {dimensions}-dimensional IDX file "
                    "of bytes; download it again"
                )
            axes = file.read(4 * dimensions)
            if len(axes) < 4 * dimensions:
                raise InputError(f"{path}: ends inside its header; download it again")
            lengths = struct.unpack(f">{dimensions}I", axes)
            held = sum(len(chunk) for chunk in _chunks(file))
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); download it again") from error
    if 0 in lengths:
        raise InputError(f"{path}: its header says {lengths}, which is no image at all; download it again")
    if held != math.prod(lengths):
        raise InputError(
            f"{path}: holds {held:,} bytes where its header says {math.prod(lengths):,}; download it again"
        )
    return lengths


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def read_array(path: Path, lengths: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the bytes behind the header in their shape; an uncompressed file is mapped, not read."""
    offset = 4 + 4 * len(lengths)
    if path.suffix != ".gz":
        return np.memmap(path, np.uint8, "r", offset, lengths)
    array = np.empty(lengths, np.uint8)
    flat = array.reshape(-1)
    filled = 0
    with _open(path) as file:
        file.read(offset)
        for chunk in _chunks(file):  # in chunks, so that memory never holds the images twice
            flat[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
            filled += len(chunk)
    return array


@lru_cache(maxsize=2)
def _inflated(path: Path, lengths: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return read_array's result and keep it.

    gzip has no random access, so that a process that reads many blocks should inflate the file only once.
    """
    return read_array(path, lengths)


@dataclass(frozen=True)
class IdxReader:
    """Reads images by row number from an IDX file that every worker sees at the same path.

    Attributes:
        path: the file.
        source: the beginning of every name.
        lengths: (n, height, width), from its header.
        pixel_format: what each image is brought into.
        transposed: True if the file holds the columns of each image where others hold its rows.
    """

    path: Path
    source: str
    lengths: tuple[int, ...]
    pixel_format: PixelFormat
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 1)."""
        rows, columns = self.lengths[1:]
        height, width = self.pixel_format.size or ((columns, rows) if self.transposed else (rows, columns))
        return height, width, 1

    @property
    def decodes(self) -> bool:
        """True if images are resized or binarized; otherwise pixels are copied from an array."""
        return self.pixel_format != PixelFormat()

    def name(self, item: Any) -> str:
        """Return, for example, mnist/train/00042."""
        return f"{self.source}/{int(item):05d}"

    def read(self, items: Items) -> ReadResult:
        """Return the images of these row numbers; none is ever skipped.

        Raises:
            InputError: the file has changed since its header was read.
        """
        # an uncompressed file is mapped anew for each block, because pages that were read count as this process's
        # memory as long as the mapping lives
        read = _inflated if self.path.suffix == ".gz" else read_array
        try:
            pixels = np.asarray(read(self.path, self.lengths)[items])[..., None]
        except (OSError, EOFError, ValueError, zlib.error) as error:  # the file was whole when its header was read
            raise InputError(f"{self.path}: cannot be read any more ({error})") from error
        if self.transposed:
            pixels = np.ascontiguousarray(pixels.swapaxes(1, 2))
        return ReadResult(reformat(pixels, self.pixel_format), np.arange(len(items)), [])


def open_pair(
    images: Path, labels: Path, name: str, classes: Mapping[int, str], pixel_format: PixelFormat, transposed: bool
) -> Catalogue:
    """Open a file of images and the file of their labels.

    Args:
        images: the images, (n, height, width).
        labels: their labels, (n,).
        name: the beginning of the images' names, for example mnist/train.
        classes: the names of the classes, by their labels.
        pixel_format: what each image is brought into.
        transposed: True if the file holds the columns of each image where others hold its rows.

    Raises:
        InputError: a file is damaged, or the two do not belong together, or a label is none of the classes.
    """
    lengths, label_lengths = read_header(images, 3), read_header(labels, 1)
    if lengths[0] != label_lengths[0]:
        raise InputError(
            f"{images} holds {lengths[0]:,} images and {labels.name} {label_lengths[0]:,} labels; "
            "the two files do not belong together"
        )
    found = read_array(labels, label_lengths)
    position = np.full(256, -1, np.int64)  # of each label that a byte can be, among the classes
    position[sorted(classes)] = np.arange(len(classes))
    unknown = found[position[found] < 0]
    if len(unknown):
        known = f"those of {name.partition('/')[0]} are {min(classes)} to {max(classes)}"
        raise InputError(f"{labels}: label {unknown.max()}, but {known}; get it again")
    reader = IdxReader(images, name, lengths, pixel_format, transposed)
    names = tuple(classes[label] for label in sorted(classes))
    return Catalogue(reader, np.arange(len(found)), position[found], names)
