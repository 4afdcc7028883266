"""A folder of images, one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.data.catalogue import Catalogue, printable
from common.data.decode import SUFFIXES, PixelFormat
from common.data.sources.files import FileReader
from common.errors import InputError


def open_folder(root: Path, form: PixelFormat) -> tuple[Catalogue, None]:
    """Open ROOT/CLASS/**/IMAGE; classes and names are sorted, hidden files and other suffixes ignored.

    Raises:
        InputError: no such folder, no class in it, or a class without images.
    """
    if not root.is_dir():
        raise InputError(f"folder:{root}: no such folder")
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise InputError(f"folder:{root}: no sub-folders; put the images of each class into a folder of its own")
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = sorted(path.relative_to(root).as_posix() for path in image_files(folder))
        if not found:
            raise InputError(
                f"folder:{root}: class {folder.name!r} holds no image ({', '.join(sorted(SUFFIXES))}); "
                "remove the folder or fill it"
            )
        names += found
        labels += [label] * len(found)
    reader = FileReader.of(root, names, form)
    items = np.array(names, dtype=object)
    return Catalogue(reader, items, np.array(labels, np.int64), tuple(printable(c.name) for c in classes)), None


def image_files(folder: Path) -> Iterator[Path]:
    """Image files below `folder`, outside hidden folders; one that cannot be listed is an error, not empty."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path
