"""Images to train or test on, whatever source they are from: dealt out in parts, which yield blocks of pixels.

Parts are what engines send to where the work is; they are small and travel by pickle between processes of one run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from common.arrays import Folds, Items, Labels, Pixels
from common.data.catalogue import Catalogue, PixelReader, Skipped
from common.data.splits import ALWAYS_TRAINING, shard

BLOCK_BYTES = 4 << 20
"""Pixels of one block: a few thousand small images, well below what an engine's record may hold."""

DECODED_ROWS = 256
"""Images of a block that must be decoded, at most: few enough to show progress."""


class Block(NamedTuple):
    """Some images.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        labels: int64 (n,).
        folds: int16 (n,), the fold that each validates.
        names: n stable names, strings or what str() makes strings of; None where nobody asked for them.
        skipped: images that belonged here and are unusable.
    """

    pixels: Pixels
    labels: Labels
    folds: Folds
    names: Sequence[object] | None
    skipped: list[Skipped]


class Part(Protocol):
    """Some of the images, not read yet."""

    def blocks(self, names: bool = False) -> Iterator[Block]:
        """Read them, a block at a time; with their names if asked for."""
        ...


class Images(ABC):
    """The images of one split, with the fold that each validates.

    Attributes:
        shape: (height, width, channels) of each.
        class_names: one name a class.
        class_counts: int64 (n_classes,), how many images each class has; of tables, without regard to a limit.
        decodes: whether reading means decoding files, so that what was read is worth keeping.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    class_counts: Labels
    decodes: bool

    @abstractmethod
    def parts(self, count: int) -> Sequence[Part]:
        """All images in at most `count` parts of about even size, at least one."""

    @property
    @abstractmethod
    def identities(self) -> frozenset[str]:
        """What tells these images from others: equal only where the images are the same."""

    @abstractmethod
    def without(self, identities: frozenset[str]) -> Images:
        """Those that are not among the identified."""

    def __len__(self) -> int:
        return int(self.class_counts.sum())

    @property
    def n_pixels(self) -> int:
        """Height × width × channels of one image."""
        height, width, channels = self.shape
        return height * width * channels

    def load(self, advance: Callable[[int], object] = lambda _: None, names: bool = False) -> Block:
        """Read everything into one block, without holding the pixels twice.

        Args:
            advance: is told how many images have been read since it was last told.
            names: whether to keep the names.
        """
        # trimmed at the end if images were skipped
        pixels = np.empty((len(self), *self.shape), np.uint8)
        labels = np.empty(len(self), np.int64)
        folds = np.empty(len(self), np.int16)
        found: list[str] = []
        skipped: list[Skipped] = []
        n = 0
        for part in self.parts(1):
            for block in part.blocks(names):
                where = slice(n, n + len(block.labels))
                pixels[where], labels[where], folds[where] = block.pixels, block.labels, block.folds
                found += map(str, block.names or ())
                skipped += block.skipped
                n = where.stop
                advance(len(block.labels) + len(block.skipped))
        return Block(pixels[:n], labels[:n], folds[:n], found if names else None, skipped)


class CatalogueImages(Images):
    """Images of a catalogue.

    Args:
        catalogue: which.
        folds: int16 (len(catalogue),), or None where none validates, as of test images.
    """

    def __init__(self, catalogue: Catalogue, folds: Folds | None = None) -> None:
        self.catalogue = catalogue
        self.folds = np.full(len(catalogue), ALWAYS_TRAINING, np.int16) if folds is None else folds
        self.shape = catalogue.shape
        self.class_names = catalogue.class_names
        self.class_counts = np.bincount(catalogue.labels, minlength=len(catalogue.class_names))
        self.decodes = catalogue.reader.decodes

    @property
    def identities(self) -> frozenset[str]:
        """One, of all names and labels together."""
        return frozenset({self.catalogue.digest()})

    def without(self, identities: frozenset[str]) -> CatalogueImages:
        """All or nothing."""
        kept = slice(0, 0) if self.identities <= identities else slice(None)
        return CatalogueImages(self.catalogue.take(kept), self.folds[kept])

    def parts(self, count: int) -> list[CataloguePart]:
        """Parts whose blocks are mostly of one fold, so that few are cut in two."""
        count = max(1, min(count, len(self)))
        order = np.argsort(self.folds, kind="stable")
        # A hold-out is dealt out image by image, so that every part has its share to validate. With K folds every
        # image validates; there each part gets a stretch of one fold or two, and sums up few matrices.
        dealt = count > 1 and ALWAYS_TRAINING in self.folds
        images = self.catalogue
        parts = []
        for rank in range(count):
            own = order[rank::count] if dealt else order[shard(len(order), rank, count)]
            parts.append(CataloguePart(images.reader, images.items[own], images.labels[own], self.folds[own]))
        return parts


@dataclass(frozen=True)
class CataloguePart:
    """What a worker needs to read its part of a catalogue: no pixels, no class names.

    Attributes:
        reader: turns items into pixels.
        items: (n,).
        labels: int64 (n,).
        folds: int16 (n,).
    """

    reader: PixelReader
    items: Items
    labels: Labels
    folds: Folds

    def blocks(self, names: bool = False) -> Iterator[Block]:
        """Read the items in their order."""
        rows = max(1, BLOCK_BYTES // int(np.prod(self.reader.shape)))
        if self.reader.decodes:
            rows = min(rows, DECODED_ROWS)
        for start in range(0, len(self.items), rows):
            # nothing of it stays here while it is worked on: there may be many parts that wait like this
            yield self._block(slice(start, start + rows), names)

    def _block(self, where: slice, names: bool) -> Block:
        items = self.items[where]
        read = self.reader.read(items)
        kept = read.kept + where.start
        named = [self.reader.name(item) for item in items[read.kept]] if names else None
        return Block(read.pixels, self.labels[kept], self.folds[kept], named, read.skipped)
