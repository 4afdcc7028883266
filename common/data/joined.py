"""Images of two sources as one catalogue, such as training images and images for validation that lie elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.arrays import Items
from common.data.catalogue import Catalogue, PixelReader, ReadResult, Skipped


@dataclass(frozen=True)
class JoinedReader:
    """Reads images of two sources.

    Attributes:
        readers: the reader of each source. An item here is its position, 0 or 1, and an item of that reader.
        dtypes: the types of the items of each reader.
        prefixes: what names of each source begin with.
    """

    readers: tuple[PixelReader, PixelReader]
    dtypes: tuple[np.dtype[Any], np.dtype[Any]]
    prefixes: tuple[str, str]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        return self.readers[0].shape

    @property
    def decodes(self) -> bool:
        """True if one of the readers decodes files."""
        return any(reader.decodes for reader in self.readers)

    def name(self, item: tuple[int, Any]) -> str:
        """Return the name that the source gives the image, after the prefix of the source."""
        source, inner = item
        return self.prefixes[source] + self.readers[source].name(inner)

    def read(self, items: Items) -> ReadResult:
        """Read the items in their order."""
        sources = np.array([source for source, _ in items], np.int64)
        pixels = np.empty((len(items), *self.shape), np.uint8)
        usable = np.zeros(len(items), np.bool_)
        reasons: dict[int, str] = {}
        for source, (reader, dtype) in enumerate(zip(self.readers, self.dtypes, strict=True)):
            own = np.flatnonzero(sources == source)
            inner = np.empty(len(own), dtype)
            inner[:] = [item for _, item in items[own]]
            found = reader.read(inner)
            pixels[own[found.kept]] = found.pixels
            usable[own[found.kept]] = True
            missing = np.setdiff1d(own, own[found.kept]).tolist()
            reasons |= {at: image.reason for at, image in zip(missing, found.skipped, strict=True)}
        skipped = [Skipped(self.name(items[at]), reasons[at]) for at in sorted(reasons)]
        return ReadResult(pixels if usable.all() else pixels[usable], np.flatnonzero(usable), skipped)


def join(first: Catalogue, second: Catalogue, prefix: str) -> Catalogue:
    """Return the images of two catalogues of the same classes and shape, which may have different readers.

    Args:
        first: the first images, whose names stay.
        second: images that follow them.
        prefix: what the names of the second begin with from now on. Digests follow from names, so that it must not
            depend on where the images are.
    """
    dtypes = (first.items.dtype, second.items.dtype)
    reader = JoinedReader((first.reader, second.reader), dtypes, ("", prefix))
    return replace(_with_source(first, 0), reader=reader).followed_by(_with_source(second, 1))


def _with_source(images: Catalogue, source: int) -> Catalogue:
    items = np.empty(len(images), object)
    items[:] = [(source, item) for item in images.items]
    return replace(images, items=items)
