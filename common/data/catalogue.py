"""Catalogue: which images exist, without their pixels.

A catalogue is what a driver or rank 0 holds, splits and deals out. Its pixels come to life where they are
used, through the catalogue's reader, which is small and travels by pickle between processes of one run.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.arrays import Indices, Items, Labels, Pixels
from common.atomic import READABLE, write_atomically


def printable(name: str) -> str:
    """A class name that any page and figure can show: control characters and stray bytes replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


class Classes(NamedTuple):
    """The classes of a source or of a model.

    Attributes:
        names: for people; two classes may have the same.
        ids: what the source itself calls them; None where that is their names.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] | None = None

    @property
    def written(self) -> tuple[str, ...]:
        """What predictions call them: ids where there are some."""
        return self.ids or self.names

    def positions(self, others: Classes) -> Labels:
        """Where each of the others is among these, int64 (n_others,), -1 where it is not.

        Classes are the same by id where both sides have ids, and else by name, where that tells which.
        """
        by_id = self.ids is not None and others.ids is not None
        own, wanted = (self.written, others.written) if by_id else (self.names, others.names)
        known = {name: position for position, name in enumerate(own)}
        times = Counter(own)
        return np.array([known[name] if times[name] == 1 else -1 for name in wanted], np.int64)


class Skipped(NamedTuple):
    """An image that could not be used, and why."""

    name: str
    reason: str


MOST_SKIPPED = 50
"""Skipped images that a page names."""


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
        class_ids: what the source itself calls the classes; None where that is their names.
    """

    reader: PixelReader
    items: Items
    labels: Labels
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of each image."""
        return self.reader.shape

    @property
    def classes(self) -> Classes:
        """Names and ids."""
        return Classes(self.class_names, self.class_ids)

    @property
    def n_pixels(self) -> int:
        """Height × width × channels of one image."""
        height, width, channels = self.shape
        return height * width * channels

    def take(self, indices: NDArray[Any] | slice) -> Catalogue:
        """The images at `indices` (integers, a mask or a slice), in that order."""
        return replace(self, items=self.items[indices], labels=self.labels[indices])

    def names(self) -> list[str]:
        """A stable name of each image."""
        return [self.reader.name(item) for item in self.items]

    def digest(self) -> str:
        """Equal for the same images under the same labels, in whatever order."""
        rows = sorted(
            f"{self.class_names[label]}\0{name}" for name, label in zip(self.names(), self.labels, strict=True)
        )
        return hashlib.sha256("\n".join(rows).encode(errors="surrogateescape")).hexdigest()


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """The images that could not be used, as CSV with a header."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Skipped._fields, *skipped])
    with write_atomically(path) as file:
        file.write(text.getvalue().encode(*READABLE))
