"""Images to train or test on, from any source: dealt out in parts, which yield blocks of pixels.

Engines send parts to their workers. Parts are small and travel by pickle between the processes of one run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from common.arrays import Features, Folds, Groups, Indices, Items, Labels, Pixels
from common.data.catalogue import Catalogue, PixelReader, Skipped
from common.data.decode import AS_THEY_ARE, PixelFormat
from common.data.splits import ALWAYS_TRAINING, shard, stratified_order
from common.errors import InputError

BLOCK_BYTES = 4 << 20
"""Pixels of one block: a few thousand small images, well below the largest record of any engine."""

DECODED_ROWS = 256
"""Images of one block if they must be decoded, at most: few enough to show progress."""


class Block(NamedTuple):
    """Some images in memory.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        labels: int64 (n,).
        folds: int16 (n,), the fold that each validates.
        names: n stable names, as strings or as objects that str() turns into them; None if not asked for.
        skipped: images that belonged to this block and could not be used.
        features: of the images that validate, in order, uint8 (m, d); None if they were not computed yet.
        groups: the group of each image, which no split may divide; None if each is by itself, or not asked for.
        thumbnails: of all images, where pixels are features to be stored; else None.
    """

    pixels: Pixels
    labels: Labels
    folds: Folds
    names: Sequence[object] | None
    skipped: list[Skipped]
    features: Features | None = None
    groups: Sequence[str] | None = None
    thumbnails: Sequence[bytes] | None = None

    def without(self, rows: Sequence[int], reason: str) -> Block:
        """Return the other images of this block, which must have names; those at `rows` count as skipped."""
        names = self.names or ()
        kept = np.delete(np.arange(len(self.labels)), rows)
        skipped = [*self.skipped, *(Skipped(str(names[row]), reason) for row in rows)]
        own = [names[row] for row in kept.tolist()]
        groups = None if self.groups is None else [self.groups[row] for row in kept.tolist()]
        return Block(self.pixels[kept], self.labels[kept], self.folds[kept], own, skipped, groups=groups)


def readable_blocks(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield blocks, and turn errors of reading them into one line.

    Raises:
        InputError: they cannot be read.
    """
    remaining = iter(blocks)
    while True:
        try:
            block = next(remaining, None)
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            raise InputError(f"{name}images cannot be read ({error.strerror or error}); mend that") from error
        if block is None:
            return
        yield block


class Sample(NamedTuple):
    """Some images to learn a feature map from.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        labels: int64 (n,).
    """

    pixels: Pixels
    labels: Labels


class Part(Protocol):
    """Some of the images, not read yet."""

    def blocks(self, names: bool = False) -> Iterator[Block]:
        """Read the images block by block, with their names if `names` is set."""
        ...


class Images(ABC):
    """The images of one split, with the fold that each validates.

    Attributes:
        shape: (height, width, channels) of each.
        class_names: one name per class.
        class_ids: the source's own identifiers of the classes; None if those are the names.
        class_counts: int64 (n_classes,), images per class; for tables, regardless of a limit.
        decodes: True if reading means decoding files, so that pixels are worth keeping.
        pixel_format: what the images were decoded into.
    """

    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None
    class_counts: Labels
    decodes: bool

    @abstractmethod
    def parts(self, count: int) -> Sequence[Part]:
        """Return all images in at most `count` parts of about even size, at least one."""

    @property
    @abstractmethod
    def identities(self) -> frozenset[str]:
        """Fingerprints: equal if and only if the images are."""

    @abstractmethod
    def without(self, identities: frozenset[str]) -> Images:
        """Return the images that have none of these identities."""

    def thumbnails(self, names: Collection[str]) -> Mapping[str, Pixels | None]:
        """Return pictures of the images of some names, uint8 (h, w, 3), where they stand beside stored features.

        None stands for a picture that is there and cannot be read.
        """
        return {}

    @property
    @abstractmethod
    def n_sampled(self) -> int:
        """About how many images `sample` could read."""

    @abstractmethod
    def sample(self, n: int, seed: int) -> Sample:
        """Read up to n images that validate none (or any, with K folds), in an order that `seed` chooses.

        Images that cannot be used are left out.
        """

    def __len__(self) -> int:
        return int(self.class_counts.sum())

    @property
    def n_pixels(self) -> int:
        """Height × width × channels of one image."""
        height, width, channels = self.shape
        return height * width * channels

    def load(self, advance: Callable[[int], object] = lambda _: None, names: bool = False) -> Block:
        """Read all images into one block, without holding the pixels twice.

        Args:
            advance: called with the number of images that have been read since its last call.
            names: whether to keep the names.
        """
        # if images are skipped, the arrays are trimmed at the end
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
        catalogue: the images.
        folds: int16 (len(catalogue),), or None if no image validates, as in a test set.
        pixel_format: what the images are decoded into.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        folds: Folds | None = None,
        pixel_format: PixelFormat = AS_THEY_ARE,
    ) -> None:
        self.catalogue = catalogue
        self.pixel_format = pixel_format
        self.folds = np.full(len(catalogue), ALWAYS_TRAINING, np.int16) if folds is None else folds
        self.shape = catalogue.shape
        self.class_names, self.class_ids = catalogue.classes
        self.class_counts = np.bincount(catalogue.labels, minlength=len(catalogue.class_names))
        self.decodes = catalogue.reader.decodes

    @property
    def identities(self) -> frozenset[str]:
        """One fingerprint, of all names and labels together."""
        return frozenset({self.catalogue.digest()})

    def without(self, identities: frozenset[str]) -> CatalogueImages:
        """Return all images or none: a catalogue has one identity."""
        kept = slice(0, 0) if self.identities <= identities else slice(None)
        return CatalogueImages(self.catalogue.take(kept), self.folds[kept], self.pixel_format)

    def sample(self, n: int, seed: int) -> Sample:
        """Read a stratified sample."""
        chosen, images = self._sampled, self.catalogue
        order = chosen[stratified_order(images.labels[chosen], seed, "features")]
        pixels, labels = [np.empty((0, *self.shape), np.uint8)], [np.empty(0, np.int64)]
        start, missing = 0, n
        while missing and start < len(order):  # more than once only if images cannot be used
            rows = order[start : start + missing]
            read = images.reader.read(images.items[rows])
            pixels.append(read.pixels)
            labels.append(images.labels[rows][read.kept])
            start += len(rows)
            missing -= len(read.kept)
        return Sample(np.concatenate(pixels), np.concatenate(labels))

    @property
    def n_sampled(self) -> int:
        """The number of images that validate none, or of all."""
        return len(self._sampled)

    @property
    def _sampled(self) -> Indices:
        training = np.flatnonzero(self.folds == ALWAYS_TRAINING)
        return training if len(training) else np.arange(len(self.folds))

    def parts(self, count: int) -> list[CataloguePart]:
        """Return parts whose blocks are mostly of one fold, so that few blocks are cut in two."""
        count = max(1, min(count, len(self)))
        order = np.argsort(self.folds, kind="stable")
        # A hold-out is dealt out image by image, so that every part has its share of validation images. With K
        # folds every image validates, and each part gets a stretch of one or two folds, so that it sums up few
        # matrices.
        dealt = count > 1 and ALWAYS_TRAINING in self.folds
        images = self.catalogue
        parts = []
        for rank in range(count):
            rows = order[rank::count] if dealt else order[shard(len(order), rank, count)]
            parts.append(CataloguePart(images.reader, images.items[rows], images.labels[rows], self.folds[rows]))
        return parts


@dataclass(frozen=True)
class CataloguePart:
    """The part of a catalogue that one worker reads; it holds no pixels and no class names.

    Attributes:
        reader: turns items into pixels.
        items: (n,).
        labels: int64 (n,).
        folds: int16 (n,).
        groups: text (n,), the group of each image; None if groups are not needed.
    """

    reader: PixelReader
    items: Items
    labels: Labels
    folds: Folds
    groups: Groups | None = None

    def blocks(self, names: bool = False) -> Iterator[Block]:
        """Read the items in their order."""
        rows = max(1, BLOCK_BYTES // int(np.prod(self.reader.shape)))
        if self.reader.decodes:
            rows = min(rows, DECODED_ROWS)
        for start in range(0, len(self.items), rows):
            # no reference to the block stays here while the caller works on it: many parts may wait like this one
            yield self._block(slice(start, start + rows), names)

    def _block(self, where: slice, names: bool) -> Block:
        items = self.items[where]
        read = self.reader.read(items)
        kept = read.kept + where.start
        named = [self.reader.name(item) for item in items[read.kept]] if names else None
        groups = None if self.groups is None else self.groups[kept].tolist()
        return Block(read.pixels, self.labels[kept], self.folds[kept], named, read.skipped, groups=groups)
