"""Images to predict as they arrive: all listed at once, or named one by one on standard input."""

from __future__ import annotations

import codecs
import os
import select
import stat
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from common.atomic import refuse_utf16
from common.data import shipped
from common.data.catalogue import PixelReader
from common.data.sources import TABLE, TABLE_SPEC, find_source, open_table, open_unlabelled, specs
from common.data.sources.files import FileReader
from common.data.sources.source import ImageList, Requirements, Unlabelled
from common.data.sources.tree import LocalTree
from common.errors import InputError
from common.predict.files import Written
from common.predict.predictions import Summary

LIST = "list"
STANDARD_INPUT, STDIN = "-", 0
READ_BYTES = 1 << 16
"""Bytes that are read of a list at once."""
LOOKED_UP = 1 << 12
"""Images that are looked up together among the written predictions."""
LISTED = 1 << 16
"""Images of a list that are taken at once."""
LONGEST_NAME = 1 << 16
"""Bytes of a line beyond which it is no path on any system."""
NO_IMAGES = ImageList([], np.empty(0, object), np.empty(0, np.int64))


def prediction_specs() -> str:
    """Return the sources of images to predict, for help texts and messages."""
    return specs(TABLE_SPEC, f"{LIST}:FILE", f"or {LIST}:{STANDARD_INPUT} for names on standard input")


class Inputs(ABC):
    """Images to predict, in their order.

    Args:
        reader: turns their items into pixels.

    Attributes:
        total: the number of images; None while it is unknown.
        ignored: the number of files beside the images that are none, by kind.
    """

    total: int | None
    ignored: Mapping[str, int] = MappingProxyType({})

    def __init__(self, reader: PixelReader) -> None:
        self.reader = reader
        self._peeked = NO_IMAGES
        self._written: Written = {}
        # of the images that were left out: the class that is written, and the label
        self._left_out = array("q"), array("q")

    def leave_out(self, written: Written) -> None:
        """Leave out images whose predictions are written already, each id as often as it is written."""
        self._written = written

    @property
    def n_left_out(self) -> int:
        """Images that were left out so far."""
        return len(self._left_out[0])

    def summary(self, n_classes: int) -> Summary:
        """Return a summary of the written predictions of images that were left out."""
        predicted, truth = (np.array(column, np.int64) for column in self._left_out)
        found = Summary.of(predicted[predicted >= 0], truth[predicted >= 0], n_classes)
        return replace(found, n_skipped=int((predicted < 0).sum()))

    def take(self, most: int) -> ImageList:
        """Return up to `most` images that have arrived; if there are none, more may still come."""
        self.peek(most)
        taken, self._peeked = self._peeked.take(slice(most)), self._peeked.take(slice(most, None))
        return taken

    def peek(self, most: int) -> ImageList:
        """Return up to `most` images without consuming them."""
        while len(self._peeked) < most and len(
            # images that are written already are looked up many at a time
            arrived := self._arrive(LOOKED_UP if self._written else most - len(self._peeked))
        ):
            new = self._not_written(arrived) if self._written else arrived
            self._peeked = self._peeked + new if len(self._peeked) else new
        return self._peeked.take(slice(most))

    def _not_written(self, arrived: ImageList) -> ImageList:
        kept = []
        for position, name in enumerate(arrived.ids):
            classes = self._written.get(name)
            if classes is None:
                kept.append(position)
                continue
            for column, value in zip(self._left_out, (classes.pop(), int(arrived.labels[position])), strict=True):
                column.append(value)
            if not classes:
                del self._written[name]
        return arrived.take(kept)

    @property
    def ended(self) -> bool:
        """True once all images have been taken."""
        return not len(self._peeked) and self.complete

    @property
    @abstractmethod
    def complete(self) -> bool:
        """True once all images have arrived."""

    @abstractmethod
    def _arrive(self, most: int) -> ImageList:
        """Return up to `most` further images without waiting for them."""


class KnownInputs(Inputs):
    """Images that are all listed from the beginning.

    Args:
        reader: turns their items into pixels.
        images: the list.
        ignored: the number of files beside the images that are none, by kind.
    """

    def __init__(
        self, reader: PixelReader, images: ImageList, ignored: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        super().__init__(reader)
        self.ignored = ignored
        self._images = images
        self._next = 0
        self.total = len(images)

    def _arrive(self, most: int) -> ImageList:
        where = slice(self._next, self._next + most)
        self._next = min(where.stop, len(self._images))
        return self._images.take(where)

    @property
    def complete(self) -> bool:
        """True once all images have been returned by `peek` or `take`."""
        return self._next == len(self._images)


class StreamedInputs(Inputs):
    """Files that are named line by line, with any pauses between the lines.

    A last line without a line break counts too. Empty lines do not.

    Args:
        reader: reads the files.
        descriptor: the file descriptor of the list; it is closed at the end unless it is standard input.

    Raises:
        InputError: the list is a folder.
    """

    def __init__(self, reader: PixelReader, descriptor: int) -> None:
        super().__init__(reader)
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise InputError("the list of images is a folder; folder:PATH takes what is in one")
        self._regular = stat.S_ISREG(mode)
        self._lines: list[bytes] = []
        self._rest = b""
        self._begun = self._ended = False
        self.total = None

    def _arrive(self, most: int) -> ImageList:
        while len(self._lines) < most and not self._ended and self._readable():
            self._read()
        taken, self._lines = self._lines[:most], self._lines[most:]
        if not taken:
            return NO_IMAGES
        return ImageList.of_files([os.fsdecode(line) for line in taken], np.full(len(taken), -1, np.int64))

    def _read(self) -> None:
        """Read the bytes that are available, and keep the whole lines.

        Raises:
            InputError: the list cannot be read, or it is no list of paths.
        """
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            raise InputError(f"the list of images cannot be read any more ({error.strerror})") from error
        if not self._begun:
            data, self._begun = data.removeprefix(codecs.BOM_UTF8), True
            refuse_utf16(data, "the list of images")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data:
            lines, self._rest, self._ended = [*lines, self._rest], b"", True
            if self._descriptor != STDIN:
                os.close(self._descriptor)
        if len(self._rest) > LONGEST_NAME:
            raise InputError(f"a line of more than {LONGEST_NAME:,} bytes is no path; is this a list of images?")
        self._lines += filter(None, (line.removesuffix(b"\r") for line in lines))

    def _readable(self) -> bool:
        return self._regular or bool(select.select([self._descriptor], [], [], 0)[0])

    @property
    def complete(self) -> bool:
        """True once the list has ended and all of its images have been returned."""
        return self._ended and not self._lines


def absolute(spec: str) -> str:
    """Return the spec of the same source that does not depend on the current folder.

    Raises:
        InputError: the path is below the home of an unknown user, or the current folder is gone.
    """
    kind, colon, location = spec.partition(":")
    if not location or location == STANDARD_INPUT:
        return spec
    if kind == TABLE:
        # imported here, because other sources need no pyarrow
        from common.data.storage import Storage

        return f"{kind}:{Storage.at(location)}"
    return f"{kind}{colon}{shipped.absolute(Path(location))}"


def open_inputs(spec: str, data_root: Path, split: str | None, requirements: Requirements, below: Path) -> Inputs:
    """Open images to predict.

    Args:
        spec: the source, as `--data` names it.
        data_root: the folder in which named sources live.
        split: "train" or "test" for sources with both; None for the test set if there is one, and for all images
            of a table.
        requirements: the model's.
        below: the folder that relative names in a list are relative to.

    Raises:
        InputError: there are no images, or the source is missing or invalid.
    """
    kind, _, location = absolute(spec).partition(":")
    if kind == LIST and location:
        if split is not None:
            raise InputError(f"--split {split}: --data {spec} has no splits; leave it out")
        return StreamedInputs(FileReader.for_model(LocalTree(below), requirements), _descriptor(spec, location))
    table = open_table(spec)
    if table is not None:
        from common.predict.table import open_rows  # pyarrow, as above

        return KnownInputs(*open_rows(table, spec, split, requirements))
    if find_source(spec) is None:
        glob = (
            "; patterns are for Spark's jobs: here, folder:PATH takes all images below it" if "*" in spec else ""
        )
        raise InputError(f"--data {spec}: no such source; use one of {prediction_specs()}{glob}")
    inputs = KnownInputs(*open_unlabelled(spec, data_root, split, requirements))
    if inputs.total == 0:
        raise InputError(f"--data {spec}: no images in it")
    return inputs


def _descriptor(spec: str, location: str) -> int:
    if location == STANDARD_INPUT:
        return STDIN
    try:
        return os.open(location, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"--data {spec}: {location}: {error.strerror}; make it readable") from error


def listed_files(spec: str, requirements: Requirements) -> Unlabelled:
    """Open all files that a list names, for engines that need to know them beforehand.

    Args:
        spec: list:FILE, or list:- for standard input; relative names are below the current folder.
        requirements: the model's.

    Raises:
        InputError: there is no such list, or it names no image.
    """
    inputs = open_inputs(spec, Path(), None, requirements, Path.cwd())
    parts = [NO_IMAGES]
    while not inputs.ended:
        arrived = inputs.take(LISTED)
        parts.append(arrived)
        if not len(arrived):
            time.sleep(0.01)
    ids = [name for part in parts for name in part.ids]
    if not ids:
        raise InputError(f"--data {spec}: no images in it")
    items, labels = (np.concatenate(column) for column in zip(*((p.items, p.labels) for p in parts), strict=True))
    return Unlabelled(inputs.reader, ImageList(ids, items, labels))
