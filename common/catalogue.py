"""Catalogue: which images exist, without their pixels.

A catalogue is what a driver or rank 0 holds, splits and deals out. Its pixels come to life where they are
used, through the catalogue's reader, which is small and travels by pickle between processes of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.imageset import ImageSet, Labels, Pixels

Items = NDArray[Any]  # (n,) row numbers of a packed file, or file names
Indices = NDArray[np.int64]

LOAD_ROWS = 256
"""Images to read at once: few enough to show progress, enough to make a call per block cheap."""


def printable(name: str) -> str:
    """A class name that any page and figure can show: control characters and stray bytes replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


class Skipped(NamedTuple):
    """An image that could not be used, and why."""

    name: str
    reason: str


class Read(NamedTuple):
    """What a reader made of some items.

    Attributes:
        pixels: uint8 (m, height, width, channels), the images that could be read.
        kept: int64 (m,), their positions among the items asked for.
        skipped: the others.
    """

    pixels: Pixels
    kept: Indices
    skipped: list[Skipped]


class PixelReader(Protocol):
    """Turns items into pixels; the only thing that differs between data sources."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image it returns."""
        ...

    @property
    def decodes(self) -> bool:
        """Whether reading means decoding files, so that what was read is worth keeping."""
        ...

    def name(self, item: Any) -> str:
        """A stable name of one item, for people."""
        ...

    def read(self, items: Items) -> Read:
        """Read the items in their order; an unreadable image is skipped, never raised."""
        ...


@dataclass(frozen=True)
class Catalogue:
    """The images of one source or one split of it.

    Attributes:
        reader: turns items into pixels.
        items: (n,), what the reader needs to find each image.
        labels: int64 (n,).
        class_names: one name a class, the same in every split.
    """

    reader: PixelReader
    items: Items
    labels: Labels
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of each image."""
        return self.reader.shape

    @property
    def n_features(self) -> int:
        """Pixels times channels of one image."""
        height, width, channels = self.shape
        return height * width * channels

    def take(self, indices: NDArray[Any]) -> Catalogue:
        """The images at `indices` (integers or a mask), in that order."""
        return replace(self, items=self.items[indices], labels=self.labels[indices])

    def name(self, index: int) -> str:
        """A stable name of the image at `index`."""
        return self.reader.name(self.items[index])

    def blocks(self, rows: int) -> Iterator[tuple[slice, Read]]:
        """Read everything, `rows` images at a time: (where in this catalogue, what was read)."""
        for start in range(0, len(self), rows):
            where = slice(start, min(start + rows, len(self)))
            yield where, self.reader.read(self.items[where])

    def load(self, advance: Callable[[int], object] = lambda _: None) -> Loaded:
        """Read everything into memory, without holding the pixels twice.

        Args:
            advance: is told how many images have been read since it was last told.
        """
        # pixels.shape = (n, height, width, channels); trimmed at the end if images were skipped
        pixels = np.empty((len(self), *self.shape), np.uint8)
        kept: list[Indices] = []
        skipped: list[Skipped] = []
        filled = 0
        for where, read in self.blocks(LOAD_ROWS):
            pixels[filled : filled + len(read.pixels)] = read.pixels
            filled += len(read.pixels)
            kept.append(read.kept + where.start)
            skipped += read.skipped
            advance(where.stop - where.start)
        indices = np.concatenate(kept) if kept else np.empty(0, np.int64)
        return Loaded(ImageSet(pixels[:filled], self.labels[indices], self.class_names), indices, skipped)


class Loaded(NamedTuple):
    """A catalogue brought into memory.

    Attributes:
        images: the images that could be read.
        kept: int64 (len(images),), their positions in the catalogue.
        skipped: the others.
    """

    images: ImageSet
    kept: Indices
    skipped: list[Skipped]
