"""A folder of images with one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.data.catalogue import Catalogue, Classes, printable
from common.data.decode import SUFFIXES, PixelFormat
from common.data.sources.files import FileReader
from common.data.sources.source import ImageList, PathSource, Requirements, Splits, Unlabelled
from common.errors import InputError


class Folder(PathSource):
    """PATH/CLASS/**/IMAGE; classes and names are sorted, hidden files and other suffixes ignored."""

    kind = "folder"

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open all images, with the sub-folders as classes.

        Raises:
            InputError: no such folder, no class in it, or a class without images.
        """
        root = _existing(location)
        classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not classes:
            raise InputError(
                f"folder:{root}: no sub-folders; put the images of each class into a folder of its own"
            )
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
        reader = FileReader.of(root, names, pixel_format)
        class_names = tuple(printable(folder.name) for folder in classes)
        return Splits(Catalogue(reader, np.array(names, object), np.array(labels, np.int64), class_names), None)

    def open_unlabelled(self, location: Path, split: str | None, requirements: Requirements) -> Unlabelled:
        """Open all images; those below a sub-folder that is called like a class of the model have its label."""
        root = _existing(location)
        names = sorted(path.relative_to(root).as_posix() for path in image_files(root))
        folders = [printable(name.partition("/")[0]) if "/" in name else "" for name in names]
        present = tuple(sorted(set(folders)))
        label_of = dict(zip(present, requirements.classes.positions(Classes(present)).tolist(), strict=True))
        labels = np.array([label_of[folder] for folder in folders], np.int64)
        return Unlabelled(FileReader.for_model(root, requirements), ImageList.of_files(names, labels))


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise InputError(f"folder:{root}: no such folder")
    return root


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files below `folder` that are not in hidden folders.

    Raises:
        OSError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path
