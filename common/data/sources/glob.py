"""Image files that a glob matches, on any file system; the class of a file is the name of its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.catalogue import Catalogue, Classes, printable
from common.data.decode import PixelFormat
from common.data.shipped import expanded
from common.data.sources import is_kind
from common.data.sources.files import FileReader
from common.data.sources.finding import FoundFiles, find_matches
from common.data.sources.patterns import WILDCARDS
from common.data.sources.remote import RemoteTree
from common.data.sources.source import ImageList, Requirements, Splits, Unlabelled
from common.data.sources.tree import LocalTree, Tree
from common.data.storage import Storage, without_file_scheme
from common.errors import InputError

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/]*)(.*)", re.DOTALL)


def is_glob(spec: str) -> bool:
    """Return True if a source is a glob; in folder:PATH and the like, wildcards are ordinary characters."""
    return WILDCARDS.search(spec) is not None and not is_kind(spec.partition(":")[0])


class Glob(NamedTuple):
    """A glob.

    Attributes:
        spec: the glob as the user wrote it.
        tree: the folder before the first wildcard; names of images are relative to it.
        pattern: the glob relative to it.
        folder: the name of that folder.
    """

    spec: str
    tree: Tree
    pattern: str
    folder: str

    @classmethod
    def of(cls, spec: str) -> Glob:
        """Return the glob that a spec names.

        Raises:
            InputError: it is on the web, which has no listings, or on any host that matches.
        """
        path = without_file_scheme(spec)
        if spec.startswith(("http://", "https://")):
            raise InputError(f"{spec}: addresses of the web cannot be listed; download the files first")
        address = ADDRESS.fullmatch(path)
        if address is not None:
            host, path = address.groups()
            if WILDCARDS.search(host):
                raise InputError(f"{spec}: name a host or bucket without wildcards; they are for what is in it")
            before, pattern = _cut(re.sub("/+", "/", path))
            tree, folder = RemoteTree(Storage.at(f"{host}{before}")), before.rstrip("/").rpartition("/")[2]
            return cls(spec, tree, pattern, folder)
        path = str(expanded(Path(path)))
        before, pattern = _cut(path)
        # without . and .., so that a file has one name whatever the current folder; symbolic links stay
        root = Path(os.path.abspath(before or "."))  # noqa: PTH100
        return cls(spec, LocalTree(root), pattern, root.name)

    def open(self, pixel_format: PixelFormat, shape: tuple[int, int, int] | None = None) -> Splits:
        """Open the files as labelled images.

        Args:
            pixel_format: what files are decoded into.
            shape: the shape that every image must have; None for the shape of the first that can be decoded.

        Raises:
            InputError: no file matches, or none can be decoded.
        """
        found = self._files()
        folders = [self._class_name(name) for name in found.names]
        classes = Classes.among(folders)
        if shape is None and pixel_format.size is not None:
            shape = (*pixel_format.size, pixel_format.channels)
        if shape is None:
            with self._listing():
                reader = FileReader.of(self.tree, found.names, pixel_format)
        else:
            reader = FileReader(self.tree, shape, pixel_format)
        items = np.array(found.names, object)
        images = Catalogue(reader, items, classes.labels(folders), classes.names, ignored=dict(found.ignored))
        return Splits(images, None)

    def open_unlabelled(self, requirements: Requirements) -> Unlabelled:
        """Open the files for prediction; those in a folder called like a class of the model have its label.

        Raises:
            InputError: no file matches.
        """
        found = self._files()
        labels = requirements.classes.labels([self._class_name(name) for name in found.names])
        images = ImageList.of_files(found.names, labels)
        return Unlabelled(FileReader.for_model(self.tree, requirements), images, found.ignored)

    def _files(self) -> FoundFiles:
        with self._listing():
            found = find_matches(self.tree, self.pattern)
        if not found.names:
            escaped = "; \\[ is a bracket in a name" if "[" in self.spec else ""
            raise InputError(f"{self.spec}: no file matches it{escaped}")
        return found

    @contextmanager
    def _listing(self) -> Iterator[None]:
        """Turn errors of listing and reading into one line.

        Raises:
            InputError: this cannot be done.
        """
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.spec}: {error}") from error
        except FileNotFoundError as error:
            raise InputError(f"{self.spec}: no file matches it; there is no {error.filename}") from error
        except OSError as error:
            raise InputError(f"{self.spec}: {error.filename}: {error.strerror}; make it readable") from error

    def _class_name(self, name: str) -> str:
        folders = name.split("/")[:-1]
        return printable(folders[-1] if folders else self.folder)


def _cut(path: str) -> tuple[str, str]:
    """Return the folder before the first wildcard, with a slash at its end, and the rest."""
    if path.startswith("{/"):
        return "/", path
    wildcard = WILDCARDS.search(path)
    cut = path.rfind("/", 0, wildcard.start() if wildcard else len(path)) + 1
    return path[:cut], path[cut:]
