"""Catalogue: which images exist, without their pixels.

A driver or rank 0 holds a catalogue, splits it and deals it out. Its pixels are read where they are used, by the
catalogue's reader, which is small and travels by pickle between the processes of one run.
"""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.arrays import Groups, Indices, Items, Labels, Pixels
from common.atomic import READABLE, write_atomically


def printable(name: str) -> str:
    """Return a class name that any page and figure can show.

    Control characters and stray bytes are escaped. Accents are composed (Unicode's form C), because macOS
    decomposes the names of files, and other systems do not.
    """
    composed = unicodedata.normalize("NFC", name)
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in composed
    )


class Classes(NamedTuple):
    """The classes of a source or of a model.

    Attributes:
        names: names for people; two classes may have the same.
        ids: the source's own identifiers; None if those are the names.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] | None = None

    @property
    def written(self) -> tuple[str, ...]:
        """The classes as predictions write them: ids if there are any, else names."""
        return self.ids or self.names

    @property
    def keys(self) -> tuple[str, ...]:
        """One text per class that no other class has: names where these are different, else ids."""
        return self.written if len(set(self.names)) < len(self.names) else self.names

    def at(self, positions: Sequence[int]) -> Classes:
        """Return the classes at some positions."""
        ids = None if self.ids is None else tuple(self.ids[i] for i in positions)
        return Classes(tuple(self.names[i] for i in positions), ids)

    def position(self, text: str) -> int:
        """Return where the class of a name or, if no single class has it, of an id is; -1 if there is none."""
        (found,) = self.labels([printable(text)]).tolist()
        if found < 0 and self.ids is not None and text in self.ids:
            return self.ids.index(text)
        return int(found)

    @classmethod
    def among(cls, names: Iterable[str]) -> Classes:
        """Return the classes that occur among names, sorted."""
        return cls(tuple(sorted(set(names))))

    def labels(self, names: Sequence[str]) -> Labels:
        """Return the label of each class name, int64 (n,), -1 if no class or more than one is called so."""
        present = Classes.among(names)
        label_of = dict(zip(present.names, self.positions(present).tolist(), strict=True))
        return np.array([label_of[name] for name in names], np.int64)

    def positions(self, others: Classes) -> Labels:
        """Return where each of the others is among these classes, int64 (n_others,), -1 if it is not.

        Classes are matched by id if both sides have ids, and by name otherwise. A name that two classes share
        matches neither.
        """
        by_id = self.ids is not None and others.ids is not None
        ours, theirs = (self.written, others.written) if by_id else (_composed(self), _composed(others))
        position = {name: number for number, name in enumerate(ours)}
        times = Counter(ours)
        return np.array([position[name] if times[name] == 1 else -1 for name in theirs], np.int64)


def _composed(classes: Classes) -> list[str]:
    # models of earlier versions may have names that are not composed
    return [unicodedata.normalize("NFC", name) for name in classes.names]


class Skipped(NamedTuple):
    """An image that could not be used, and the reason."""

    name: str
    reason: str


MOST_SKIPPED = 50
"""Skipped images that a page lists, at most."""


class ReadResult(NamedTuple):
    """The outcome of reading some items.

    Attributes:
        pixels: uint8 (m, height, width, channels), the images that could be read.
        kept: int64 (m,), their positions among the items.
        skipped: the images that could not be read.
    """

    pixels: Pixels
    kept: Indices
    skipped: list[Skipped]


class PixelReader(Protocol):
    """Turns items into pixels.

    A reader is all that workers see of a source; they need not know which source it is.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image it returns."""
        ...

    @property
    def decodes(self) -> bool:
        """True if reading means decoding files, so that pixels are worth keeping."""
        ...

    def name(self, item: Any) -> str:
        """Return a stable name of one item, for people."""
        ...

    def read(self, items: Items) -> ReadResult:
        """Read the items in their order; an unreadable image is skipped and raises nothing."""
        ...


@dataclass(frozen=True)
class Catalogue:
    """The images of one source, or of one split of it.

    Attributes:
        reader: turns items into pixels.
        items: (n,), what the reader needs to find each image.
        labels: int64 (n,).
        class_names: one name per class, the same in every split.
        class_ids: the source's own identifiers of the classes; None if those are the names.
        ignored: the number of files beside the images that are none, by kind.
        groups: text (n,), the group of each image; images of one group stay together when images are split. None
            if every image is by itself.
    """

    reader: PixelReader
    items: Items
    labels: Labels
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)
    groups: Groups | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of each image."""
        return self.reader.shape

    @property
    def classes(self) -> Classes:
        """Names and ids of the classes."""
        return Classes(self.class_names, self.class_ids)

    @property
    def n_pixels(self) -> int:
        """Height × width × channels of one image."""
        height, width, channels = self.shape
        return height * width * channels

    def take(self, indices: NDArray[Any] | slice) -> Catalogue:
        """Return the images at `indices` (integers, a mask or a slice), in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return replace(self, items=self.items[indices], labels=self.labels[indices], groups=groups)

    def followed_by(self, other: Catalogue) -> Catalogue:
        """Return these images and those of another catalogue of the same reader and classes."""
        items, labels = (np.concatenate(pair) for pair in ((self.items, other.items), (self.labels, other.labels)))
        grouped = self.groups is not None and other.groups is not None
        groups = np.concatenate([self.groups, other.groups]) if grouped else None
        return replace(self, items=items, labels=labels, groups=groups)

    def shared_group(self, other: Catalogue) -> str | None:
        """Return a group that has images here and in another catalogue, or None."""
        return min(self._shared_groups() & other._shared_groups(), default=None)

    def _shared_groups(self) -> set[str]:
        """Return the groups, except those of images by themselves, which are called as these are."""
        if self.groups is None:
            return set()
        return {group for group, name in zip(self.groups, self.names(), strict=True) if group != name}

    def names(self) -> list[str]:
        """Return a stable name of each image."""
        return [self.reader.name(item) for item in self.items]

    def digest(self) -> str:
        """Return a SHA-256 of names, labels and groups, which does not depend on the order of the images."""
        keys = self.classes.keys
        rows = [f"{keys[label]}\0{name}" for name, label in zip(self.names(), self.labels, strict=True)]
        if self.groups is not None:
            rows = [f"{row}\0{group}" for row, group in zip(rows, self.groups, strict=True)]
        rows.sort()
        return hashlib.sha256("\n".join(rows).encode(errors="surrogateescape")).hexdigest()


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """Write skipped images as CSV with a header."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Skipped._fields, *skipped])
    with write_atomically(path) as file:
        file.write(text.getvalue().encode(*READABLE))
