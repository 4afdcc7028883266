"""IDX files, gzip or not: the format MNIST is published in (LeCun, Cortes, Burges)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from common.arrays import Items
from common.data.catalogue import Read
from common.data.decode import PixelFormat, reformat
from common.errors import InputError

UNSIGNED_BYTE = 0x08
CHUNK = 1 << 20


def find(folder: Path, stem: str) -> Path:
    """`stem` or `stem.gz` in `folder`, uncompressed first."""
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder / stem}[.gz]: not found; `make data` downloads it, or use --data digits")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def read_header(path: Path, dimensions: int) -> tuple[int, ...]:
    """The lengths of an IDX file's axes, after checking the whole file against them.

    The file is streamed, never held.

    Raises:
        InputError: wrong magic number, damaged gzip, or more or fewer bytes than the header says.
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
    """The bytes behind the header, shaped; a file that is not compressed is mapped, not read."""
    offset = 4 + 4 * len(lengths)
    if path.suffix != ".gz":
        return np.memmap(path, np.uint8, "r", offset, lengths)
    array = np.empty(lengths, np.uint8)
    flat = array.reshape(-1)
    filled = 0
    with _open(path) as file:
        file.read(offset)
        for chunk in _chunks(file):  # piecewise, so that the images are never held twice
            flat[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
            filled += len(chunk)
    return array


@lru_cache(maxsize=2)
def _inflated(path: Path, lengths: tuple[int, ...]) -> NDArray[np.uint8]:
    """Keep what was read: gzip has no random access: a process that reads many blocks inflates the file once."""
    return read_array(path, lengths)


@dataclass(frozen=True)
class IdxReader:
    """Reads images by row number from an IDX file that every worker sees at the same path.

    Attributes:
        path: the file.
        source: what names begin with.
        lengths: (n, height, width), from its header.
        form: what each image is turned into.
    """

    path: Path
    source: str
    lengths: tuple[int, ...]
    form: PixelFormat

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 1)."""
        height, width = self.form.size or self.lengths[1:]
        return height, width, 1

    @property
    def decodes(self) -> bool:
        """Only to resize or binarize; as they are, pixels are read from an array."""
        return self.form != PixelFormat()

    def name(self, item: Any) -> str:
        """For example mnist/train/00042."""
        return f"{self.source}/{int(item):05d}"

    def read(self, items: Items) -> Read:
        """The images of these row numbers; none is ever skipped."""
        # a file that is mapped is mapped anew for each block: pages that were read count as this process's memory
        read = _inflated if self.path.suffix == ".gz" else read_array
        try:
            pixels = np.asarray(read(self.path, self.lengths)[items])[..., None]
        except (OSError, EOFError, ValueError, zlib.error) as error:  # it was whole when its header was read
            raise InputError(f"{self.path}: cannot be read any more ({error})") from error
        return Read(reformat(pixels, self.form), np.arange(len(items)), [])
