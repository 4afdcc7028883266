"""The interface of a data source: all that training, prediction, Amazon EMR and the download need of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from common.arrays import Items, Labels
from common.atomic import readable
from common.data.catalogue import Catalogue, Classes, PixelReader, ReadResult, Skipped
from common.data.decode import DecodingSteps, PixelFormat
from common.data.sources.label_file import LabelFile
from common.errors import InputError


class Splits(NamedTuple):
    """The labelled images of a source.

    Attributes:
        train: every labelled image that is not in the others.
        test: the source's own test set, or None if it has none.
        validation: the source's own images for validation, or None if it has none.
        notes: lines for people about how the source was read.
        test_validates: True if the test images were meant for validation, and are for the test for want of others.
    """

    train: Catalogue
    test: Catalogue | None
    validation: Catalogue | None = None
    notes: tuple[str, ...] = ()
    test_validates: bool = False

    @property
    def learnt(self) -> Catalogue:
        """All images that are not for the test."""
        return self.train if self.validation is None else self.train.followed_by(self.validation)

    @property
    def everything(self) -> Catalogue:
        """All images of a source whose splits have one reader."""
        return self.learnt if self.test is None else self.learnt.followed_by(self.test)


@dataclass(frozen=True)
class ImageList:
    """Some images to predict.

    Attributes:
        ids: the names of the images in predictions.
        items: (n,), what a reader needs to find each image.
        labels: int64 (n,), the class of each image, -1 if unknown.
    """

    ids: list[str]
    items: Items
    labels: Labels

    @classmethod
    def of_files(cls, names: Sequence[str], labels: Labels) -> ImageList:
        """List files, which predictions call by their names."""
        items = np.empty(len(names), object)
        items[:] = names
        return cls([readable(name) for name in names], items, labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: ImageList) -> ImageList:
        return ImageList(
            self.ids + other.ids,
            np.concatenate([self.items, other.items]),
            np.concatenate([self.labels, other.labels]),
        )

    def take(self, where: slice | Sequence[int]) -> ImageList:
        """Return the images at these positions, in that order."""
        numbers = range(len(self.ids))[where] if isinstance(where, slice) else where
        return ImageList([self.ids[i] for i in numbers], self.items[where], self.labels[where])


class Requirements(NamedTuple):
    """A model's requirements of the images that it predicts.

    Attributes:
        pixel_format: what files are decoded into.
        shape: (height, width, channels) of decoded images.
        classes: the classes that the model distinguishes.
        steps: the decoding steps.
    """

    pixel_format: PixelFormat
    shape: tuple[int, int, int]
    classes: Classes
    steps: DecodingSteps


class Unlabelled(NamedTuple):
    """The images of a source, opened for prediction.

    Attributes:
        reader: turns their items into pixels.
        images: the images; labels are the model's, -1 where the source or the model does not know the class.
        ignored: the number of files beside the images that are none, by kind.
    """

    reader: PixelReader
    images: ImageList
    ignored: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class ReaderById:
    """Reads images that predictions call by an id.

    Attributes:
        reader: turns their items into pixels; an item here is an id and an item of that reader.
    """

    reader: PixelReader

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        return self.reader.shape

    @property
    def decodes(self) -> bool:
        """True if the reader decodes files."""
        return self.reader.decodes

    def name(self, item: tuple[str, Any]) -> str:
        """Return the id."""
        return item[0]

    def read(self, items: Items) -> ReadResult:
        """Read the items in their order; skipped images are called by their ids."""
        inner = np.empty(len(items), object)
        inner[:] = [item for _, item in items]
        found = self.reader.read(inner)
        missing = np.setdiff1d(np.arange(len(items)), found.kept)
        named = zip((items[i][0] for i in missing), found.skipped, strict=True)
        return ReadResult(found.pixels, found.kept, [Skipped(name, image.reason) for name, image in named])


@dataclass(frozen=True)
class LocalFiles:
    """Local files that a cluster's workers need.

    Attributes:
        name: a name for the folder that they travel in, for example "photos".
        root: the local folder that this folder corresponds to.
        tops: files and folders below the root; each travels with everything in it that is not hidden.
        location: the path below the folder by which the cluster opens the source; "" for the folder itself.
        remedy: what a user can do if there are no such files.
    """

    name: str
    root: Path
    tops: Sequence[Path]
    location: str = ""
    remedy: str = "name another"

    @classmethod
    def at(cls, path: Path, pattern: str = "*") -> LocalFiles:
        """Return a file, or the entries of a folder that match a pattern."""
        if path.is_dir():
            return cls(path.resolve().name, path, sorted(path.glob(pattern)))
        return cls(path.stem, path.parent, [path], path.name)


@dataclass(frozen=True)
class Download:
    """Files that are downloaded into a folder of the data root.

    Attributes:
        title: the source's name, for people.
        megabytes: the size of all files together.
        folder: the folder, relative to the data root.
        files: SHA-256 of each file as published, by name.
        mirrors: addresses to try in turn, without the file's name.
    """

    title: str
    megabytes: int
    folder: str
    files: Mapping[str, str]
    mirrors: Sequence[str]


class Source(ABC):
    """A data source: what `--data` names.

    A new source is a subclass of NamedSource or PathSource in a module of its own, and one line in SOURCES.
    `kind` and `open` are all that it must define.

    Attributes:
        kind: its name in `--data`.
        takes_split: whether a prediction may choose between its training and test images by `--split`.
        download: how to download it into the data root, or None.
    """

    kind: ClassVar[str]
    takes_split: ClassVar[bool]
    download: ClassVar[Download | None] = None

    @property
    @abstractmethod
    def spec(self) -> str:
        """How help texts show it, for example folder:PATH."""

    @abstractmethod
    def location(self, spec: str, data_root: Path) -> Path | None:
        """Return the path from which to open the source, or None if `spec` does not name this source."""

    @abstractmethod
    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open the labelled images.

        Args:
            location: the data root of a NamedSource, the path of a PathSource; workers find it as it is.
            pixel_format: what every image is decoded into.

        Raises:
            InputError: its files are missing or invalid.
            OSError: a file cannot be read.
        """

    def open_with_labels(self, location: Path, pixel_format: PixelFormat, labels: LabelFile) -> Splits:
        """Open the images that a label file names. Override it if the source can hold images without labels.

        Args:
            location: as for `open`.
            pixel_format: what every image is decoded into.
            labels: the classes of the images.

        Raises:
            InputError: the source has labels of its own, or the two do not fit together.
            OSError: a file cannot be read.
        """
        raise InputError(f"{labels.path}: label files are for folder:PATH, and {self.spec} has labels of its own")

    def open_unlabelled(self, location: Path, split: str | None, requirements: Requirements) -> Unlabelled:
        """Open images to predict.

        By default these are labelled images. Override it if the source has images that need no label.

        Args:
            location: as for `open`.
            split: "train" or "test"; None for the test set if there is one. Always None without `takes_split`.
            requirements: the model's.

        Raises:
            InputError: its files are missing or invalid.
            OSError: a file cannot be read.
        """
        train, test = self.open(location, requirements.pixel_format)[:2]
        images = train if split == "train" or (split is None and test is None) else test
        if images is None:
            raise InputError(f"--data {self.spec}: has no {split} images; leave --split out")
        position = requirements.classes.positions(images.classes)
        ids = [readable(name) for name in images.names()]
        return Unlabelled(images.reader, ImageList(ids, images.items, position[images.labels]))

    @abstractmethod
    def local_files(self, location: Path) -> LocalFiles | None:
        """Return the local files that a cluster's workers need to open the source, or None if they need none."""


class NamedSource(Source):
    """A source that `--data` names by its kind alone: it is bundled, or lives below the data root."""

    takes_split = True

    @property
    def spec(self) -> str:
        """The kind."""
        return self.kind

    def location(self, spec: str, data_root: Path) -> Path | None:
        """Return the data root if `spec` is the kind."""
        return data_root if spec == self.kind else None

    def local_files(self, location: Path) -> LocalFiles | None:
        """Return None: by default the source is bundled. Override it if the source lives below the data root."""
        return None


class PathSource(Source):
    """A source that `--data` names as KIND:PATH."""

    takes_split = False

    @property
    def spec(self) -> str:
        """The kind and PATH."""
        return f"{self.kind}:PATH"

    def location(self, spec: str, data_root: Path) -> Path | None:
        """Return the path behind the kind."""
        kind, _, path = spec.partition(":")
        return Path(path) if kind == self.kind and path else None

    def local_files(self, location: Path) -> LocalFiles:
        """Return everything at the path. Override it if the source needs other files too."""
        return LocalFiles.at(location)
