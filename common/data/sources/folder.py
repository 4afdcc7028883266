"""A folder of images with one sub-folder per class, or with such folders for training, validation and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.catalogue import Catalogue, Classes, printable
from common.data.decode import PixelFormat
from common.data.sources.files import FileReader
from common.data.sources.finding import SUFFIXES, find_files
from common.data.sources.source import ImageList, PathSource, Requirements, Splits, Unlabelled
from common.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_NAMES = {
    TRAIN: {"train", "training"},
    VALIDATION: {"val", "valid", "validation", "dev"},
    TEST: {"test", "testing"},
}
"""Names of folders that hold a split, in small letters."""


class Folder(PathSource):
    """PATH/CLASS/**/IMAGE, or PATH/train/CLASS/**/IMAGE beside the same with val, test or both."""

    kind = "folder"

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open all images, with the sub-folders as classes.

        Raises:
            InputError: no such folder, no class in it, or a class without images.
        """
        root = _existing(location)
        found = find_files(root)
        layout = Layout.of(found.names)
        names, outside = layout.labelled(found.names)
        _check_folders(root, found.names)
        folders = [layout.class_name(name) or "" for name in names]
        classes = Classes.among(folders)
        reader = FileReader.of(root, names, pixel_format)
        ignored = dict(found.ignored + Counter({"outside the folders of classes": outside}))
        items = np.array(names, object)
        images = Catalogue(reader, items, classes.labels(folders), classes.names, ignored=ignored)
        splits = np.array([layout.split(name) for name in names])
        if not layout.splits:
            sounds = f"taken for classes, not splits: {', '.join(layout.doubtful)}"
            return Splits(images, None, notes=(sounds,) if layout.doubtful else ())
        parts = {split: images.take(splits == split) for split in np.unique(splits).tolist()}
        uses = {TRAIN: "training", VALIDATION: "validation", TEST: "the test"}
        if VALIDATION in parts and TEST not in parts:
            parts[TEST], uses[VALIDATION] = parts.pop(VALIDATION), uses[TEST]
        return Splits(
            parts[TRAIN], parts.get(TEST), parts.get(VALIDATION), (layout.note(set(splits.tolist()), uses),)
        )

    def open_unlabelled(self, location: Path, split: str | None, requirements: Requirements) -> Unlabelled:
        """Open all images; those below a sub-folder that is called like a class of the model have its label."""
        root = _existing(location)
        found = find_files(root)
        layout = Layout.of(found.names)
        labels = requirements.classes.labels([layout.class_name(name) or "" for name in found.names])
        images = ImageList.of_files(found.names, labels)
        return Unlabelled(FileReader.for_model(root, requirements), images, found.ignored)


class Layout(NamedTuple):
    """The meaning of the folders that images are in.

    Attributes:
        splits: the split by the name of its folder; empty if the folders are classes.
        spelling: for splits, the class that each folder of a class stands for, by its name in small letters.
        doubtful: names of folders that are taken for classes though they sound like splits.
    """

    splits: dict[str, str]
    spelling: dict[str, str]
    doubtful: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str]) -> Layout:
        """Return the layout of some image files.

        Folders are splits if one is for training, and another one that sounds like a split holds its classes, or
        images of no class that it has, as in many contests. What is in other folders then has no split.
        """
        tops = {name.partition("/")[0] for name in names if "/" in name}
        splits = {top: split for top in tops for split, called in SPLIT_NAMES.items() if top.lower() in called}
        inner: dict[str, set[str]] = {split: set() for split in splits.values()}
        for name in names:
            top, *others = name.split("/")
            if top in splits and len(others) > 1:
                inner[splits[top]].add(printable(others[0]))
        training = {name.casefold(): name for name in sorted(inner.get(TRAIN, ()))}
        sharing = [split for split, found in inner.items() if training.keys() & {n.casefold() for n in found}]
        bare_test = TEST in inner and TEST not in sharing and len(training) > 1 and len(splits) == len(tops)
        if len(sharing) < 2 and not bare_test:
            return cls({}, {}, tuple(sorted(splits)))
        known = {top: split for top, split in splits.items() if split in sharing or split == TEST}
        named = sorted(name for split in sharing for name in inner[split])
        return cls(known, {name.casefold(): name for name in named} | training)

    def split(self, name: str) -> str:
        """Return the split of an image; "train" if the folders are classes."""
        return self.splits.get(name.partition("/")[0], TRAIN)

    def class_name(self, name: str) -> str | None:
        """Return the class of an image, or None if it is in no folder of a class."""
        first, *folders = name.split("/")[:-1] or [""]
        if not self.splits:
            return printable(first) or None
        if first not in self.splits or not folders:
            return None
        return self.spelling.get(printable(folders[0]).casefold())

    def labelled(self, names: Sequence[str]) -> tuple[list[str], int]:
        """Return the images that have a class, class by class, and the number of those that have none."""
        classes = {name: self.class_name(name) for name in names}
        kept = sorted((class_name, name) for name, class_name in classes.items() if class_name is not None)
        return [name for _, name in kept], len(names) - len(kept)

    def note(self, present: Collection[str], uses: Mapping[str, str]) -> str:
        """Say which folder is used for what.

        Args:
            present: the splits that images belong to.
            uses: what each split is used for.
        """
        used = [
            f"{' and '.join(f'{top}/' for top in sorted(self.splits) if self.splits[top] == split)} for {use}"
            for split, use in uses.items()
            if split in present
        ]
        return f"splits: {', '.join(used)}"


def _check_folders(root: Path, names: Sequence[str]) -> None:
    """Make sure that there are classes, and that each has images.

    Raises:
        InputError: there are none, or one is empty.
    """
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise InputError(f"folder:{root}: no sub-folders; put the images of each class into a folder of its own")
    filled = {printable(name.partition("/")[0]) for name in names}
    for folder in sorted(folders):
        if printable(folder.name) not in filled:
            raise InputError(
                f"folder:{root}: sub-folder {folder.name!r} holds no image ({', '.join(sorted(SUFFIXES))}); "
                "remove the folder or fill it"
            )


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise InputError(f"folder:{root}: no such folder")
    return root
