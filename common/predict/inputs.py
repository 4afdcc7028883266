"""Images to predict, as they come: all known at once, or named one by one on standard input."""

from __future__ import annotations

import os
import select
import stat
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.arrays import Items, Labels
from common.atomic import readable
from common.data.catalogue import Classes, PixelReader, printable
from common.data.decode import PixelFormat, Stages
from common.data.sources import NAMED, open_dataset
from common.data.sources.files import FileReader
from common.data.sources.folder import image_files
from common.data.sources.herbarium import list_herbarium
from common.errors import InputError
from common.predict.files import Written
from common.predict.predictions import Summary

SOURCES = "digits, mnist, folder:PATH, herbarium:PATH, list:FILE, or list:- for names on standard input"
STANDARD_INPUT, STDIN = "-", 0
PIECE_BYTES = 1 << 16
"""What is read of a list at once."""
MANY = 1 << 12
"""Images that are looked at together for whether they are written already."""
LONGEST_NAME = 1 << 16
"""Bytes of a line beyond which it is no path on any system."""


@dataclass(frozen=True)
class Arrived:
    """Some images.

    Attributes:
        ids: what predictions call them.
        items: (n,), what the reader needs to find each.
        labels: int64 (n,), the class of each if it is known, else -1.
    """

    ids: list[str]
    items: Items
    labels: Labels

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Arrived) -> Arrived:
        return Arrived(
            self.ids + other.ids,
            np.concatenate([self.items, other.items]),
            np.concatenate([self.labels, other.labels]),
        )

    def take(self, where: slice | Sequence[int]) -> Arrived:
        """Some of them."""
        numbers = range(len(self.ids))[where] if isinstance(where, slice) else where
        return Arrived([self.ids[i] for i in numbers], self.items[where], self.labels[where])


NOTHING = Arrived([], np.empty(0, object), np.empty(0, np.int64))


class Inputs(ABC):
    """Images to predict, in their order.

    Args:
        reader: turns their items into pixels.

    Attributes:
        total: how many there are; None where nobody knows yet.
    """

    total: int | None

    def __init__(self, reader: PixelReader) -> None:
        self.reader = reader
        self._peeked = NOTHING
        self._written: Written = {}
        self._passed = array("q"), array("q")

    def leave_out(self, written: Written) -> None:
        """Pass over images whose predictions are written already, each id as often as it is."""
        self._written = written

    @property
    def n_passed(self) -> int:
        """Images that were left out."""
        return len(self._passed[0])

    def summary(self, n_classes: int) -> Summary:
        """Of what is written of those that were left out."""
        predicted, truth = (np.array(column, np.int64) for column in self._passed)
        found = Summary.of(predicted[predicted >= 0], truth[predicted >= 0], n_classes)
        return replace(found, n_skipped=int((predicted < 0).sum()))

    def take(self, most: int) -> Arrived:
        """Those that have arrived, at most so many; none says nothing about whether more will come."""
        self.peek(most)
        taken, self._peeked = self._peeked.take(slice(most)), self._peeked.take(slice(most, None))
        return taken

    def peek(self, most: int) -> Arrived:
        """The same, to be taken later."""
        # of those that are written already, many at once
        while len(self._peeked) < most and len(
            arrived := self._arrive(MANY if self._written else most - len(self._peeked))
        ):
            new = self._left(arrived) if self._written else arrived
            self._peeked = self._peeked + new if len(self._peeked) else new
        return self._peeked.take(slice(most))

    def _left(self, arrived: Arrived) -> Arrived:
        kept = []
        for position, name in enumerate(arrived.ids):
            classes = self._written.get(name)
            if classes is None:
                kept.append(position)
                continue
            for column, value in zip(self._passed, (classes.pop(), int(arrived.labels[position])), strict=True):
                column.append(value)
            if not classes:
                del self._written[name]
        return arrived.take(kept)

    @property
    def ended(self) -> bool:
        """Whether all have been taken."""
        return not len(self._peeked) and self.complete

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether all have arrived."""

    @abstractmethod
    def _arrive(self, most: int) -> Arrived:
        """The next ones, without waiting for them."""


class KnownInputs(Inputs):
    """Images that are all known."""

    def __init__(self, reader: PixelReader, images: Arrived) -> None:
        super().__init__(reader)
        self._images = images
        self._next = 0
        self.total = len(images)

    def _arrive(self, most: int) -> Arrived:
        where = slice(self._next, self._next + most)
        self._next = min(where.stop, len(self._images))
        return self._images.take(where)

    @property
    def complete(self) -> bool:
        """Whether all have been looked at."""
        return self._next == len(self._images)


class StreamedInputs(Inputs):
    """Files that are named line by line, by someone who may take their time.

    Args:
        reader: of files.
        descriptor: to read from, and to close unless it is standard input.

    The last line counts too if nothing ends it. Empty lines do not.
    """

    def __init__(self, reader: PixelReader, descriptor: int) -> None:
        super().__init__(reader)
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise InputError("a list of images that is a folder; folder:PATH takes what is in one")
        self._regular = stat.S_ISREG(mode)
        self._lines: list[bytes] = []
        self._rest = b""
        self._ended = False
        self.total = None

    def _arrive(self, most: int) -> Arrived:
        while len(self._lines) < most and not self._ended and self._readable():
            try:
                piece = os.read(self._descriptor, PIECE_BYTES)
            except OSError as error:
                raise InputError(f"the list of images cannot be read any more ({error.strerror})") from error
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if not piece:
                lines, self._rest, self._ended = [*lines, self._rest], b"", True
                if self._descriptor != STDIN:
                    os.close(self._descriptor)
            if len(self._rest) > LONGEST_NAME:
                raise InputError(
                    f"a line of more than {LONGEST_NAME:,} bytes is no path; is this a list of images?"
                )
            self._lines += filter(None, (line.removesuffix(b"\r") for line in lines))
        taken, self._lines = self._lines[:most], self._lines[most:]
        if not taken:
            return NOTHING
        return _named_by_path([os.fsdecode(line) for line in taken], np.full(len(taken), -1, np.int64))

    def _readable(self) -> bool:
        return self._regular or bool(select.select([self._descriptor], [], [], 0)[0])

    @property
    def complete(self) -> bool:
        """Whether the list has ended."""
        return self._ended and not self._lines


class Wanted(NamedTuple):
    """What a model asks of images.

    Attributes:
        form: what files are decoded into.
        shape: (height, width, channels) that come of it.
        classes: that it knows.
        stages: in which files are decoded.
    """

    form: PixelFormat
    shape: tuple[int, int, int]
    classes: Classes
    stages: Stages


def absolute(spec: str) -> str:
    """The same source, whatever folder it is named in.

    Raises:
        InputError: it is below the home of somebody who is not there.
    """
    kind, colon, place = spec.partition(":")
    if not place or place == STANDARD_INPUT:
        return spec
    try:
        return f"{kind}{colon}{Path(place).expanduser().absolute()}"
    except RuntimeError as error:
        raise InputError(f"--data {spec}: {error}") from error


def open_inputs(spec: str, data_root: Path, split: str | None, wanted: Wanted, below: Path) -> Inputs:
    """Open images to predict.

    Args:
        spec: one of SOURCES.
        data_root: the folder in which named sets live.
        split: "train" or "test", of sets that have both; None for the test set where there is one.
        wanted: what the model asks of them.
        below: the folder that relative names in a list are below.

    Raises:
        InputError: there are none, or the source is not what it should be.
    """
    kind, _, place = absolute(spec).partition(":")
    path = Path(place)
    if split is not None and place:
        raise InputError(f"--split {split}: --data {spec} has no splits; leave it out")
    try:
        if kind == "list" and place:
            inputs: Inputs = StreamedInputs(_files(below, wanted), _descriptor(place))
        elif kind == "folder" and place:
            inputs = _folder(path, wanted)
        elif kind == "herbarium" and place:
            inputs = _herbarium(path, wanted)
        else:
            inputs = _named(spec, data_root, split, wanted)
    except OSError as error:
        raise InputError(
            f"--data {spec}: {error.filename or place}: {error.strerror}; make it readable"
        ) from error
    if inputs.total == 0:
        raise InputError(f"--data {spec}: no images in it")
    return inputs


def _named_by_path(names: list[str], labels: Labels) -> Arrived:
    items = np.empty(len(names), object)
    items[:] = names
    return Arrived([readable(name) for name in names], items, labels)


def _files(root: Path, wanted: Wanted) -> FileReader:
    return FileReader(root, wanted.shape, wanted.form, wanted.stages)


def _descriptor(place: str) -> int:
    return STDIN if place == STANDARD_INPUT else os.open(place, os.O_RDONLY)


def _folder(root: Path, wanted: Wanted) -> KnownInputs:
    """All images below a folder; those below a sub-folder with the name of a class are known to be of it."""
    if not root.is_dir():
        raise InputError(f"folder:{root}: no such folder")
    names = sorted(path.relative_to(root).as_posix() for path in image_files(root))
    folders = [printable(name.partition("/")[0]) if "/" in name else "" for name in names]
    present = tuple(sorted(set(folders)))
    position = dict(zip(present, wanted.classes.positions(Classes(present)).tolist(), strict=True))
    labels = np.array([position[folder] for folder in folders], np.int64)
    return KnownInputs(_files(root, wanted), _named_by_path(names, labels))


def _herbarium(path: Path, wanted: Wanted) -> KnownInputs:
    metadata = list_herbarium(path)
    known = wanted.classes.positions(metadata.classes)
    position = dict(zip(metadata.classes.written, known.tolist(), strict=True))
    ids = list(metadata.files)
    labels = [position[metadata.category_of[image]] if image in metadata.category_of else -1 for image in ids]
    items = np.array(list(metadata.files.values()), object)
    return KnownInputs(
        _files(metadata.root, wanted), Arrived([readable(i) for i in ids], items, np.array(labels, np.int64))
    )


def _named(spec: str, data_root: Path, split: str | None, wanted: Wanted) -> KnownInputs:
    """Those of a split of a set that comes whole: the test set unless another is asked for, or there is none."""
    if spec not in NAMED:
        raise InputError(f"--data {spec}: no such source; use one of {SOURCES}")
    dataset = open_dataset(spec, data_root, wanted.form)
    images = dataset.train if split == "train" or (split is None and dataset.test is None) else dataset.test
    if images is None:
        raise InputError(f"--data {spec}: has no {split} images; leave --split out")
    known = wanted.classes.positions(images.classes)
    return KnownInputs(images.reader, Arrived(images.names(), images.items, known[images.labels]))
