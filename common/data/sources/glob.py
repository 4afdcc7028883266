"""Image files of this file system that a glob matches; the class of a file is the name of its folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.catalogue import Catalogue, Classes, printable
from common.data.decode import PixelFormat
from common.data.shipped import expanded
from common.data.sources.files import FileReader
from common.data.sources.finding import FoundFiles, find_matches
from common.data.sources.patterns import WILDCARDS
from common.data.sources.source import ImageList, Requirements, Splits, Unlabelled
from common.errors import InputError


class LocalGlob(NamedTuple):
    """A glob on this file system.

    Attributes:
        spec: the glob as the user wrote it.
        root: the folder before the first wildcard; names of images are relative to it.
        pattern: the glob relative to it.
    """

    spec: str
    root: Path
    pattern: str

    @classmethod
    def of(cls, spec: str) -> LocalGlob | None:
        """Return the glob that a spec names, or None if it is on another file system."""
        path = re.sub(r"^file:(//[^/]*)?(?=/)", "", spec)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
            return None
        path = str(expanded(Path(path)))
        wildcard = WILDCARDS.search(path)
        cut = path.rfind("/", 0, wildcard.start() if wildcard else len(path)) + 1
        if path.startswith("{/"):
            return cls(spec, Path("/"), path)
        # without . and .., so that a file has one name whatever the current folder; symbolic links stay
        return cls(spec, Path(os.path.abspath(path[:cut] or ".")), path[cut:])  # noqa: PTH100

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
            reader = FileReader.of(self.root, found.names, pixel_format)
        else:
            reader = FileReader(self.root, shape, pixel_format)
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
        return Unlabelled(FileReader.for_model(self.root, requirements), images, found.ignored)

    def _files(self) -> FoundFiles:
        try:
            found = find_matches(self.root, self.pattern)
        except InputError as error:
            raise InputError(f"{self.spec}: {error}") from error
        except FileNotFoundError as error:
            raise InputError(f"{self.spec}: no file matches it; there is no {error.filename}") from error
        except OSError as error:
            raise InputError(f"{self.spec}: {error.filename}: {error.strerror}; make it readable") from error
        if not found.names:
            escaped = "; \\[ is a bracket in a name" if "[" in self.spec else ""
            raise InputError(f"{self.spec}: no file matches it{escaped}")
        return found

    def _class_name(self, name: str) -> str:
        return printable((self.root / name).parent.name)
