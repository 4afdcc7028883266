"""A folder of images with one sub-folder per class, or with such folders for training, validation and test.

Or with a label file, whatever its sub-folders are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.catalogue import Catalogue, Classes, printable
from common.data.decode import PixelFormat
from common.data.sources.file_index import FileIndex
from common.data.sources.files import FileReader
from common.data.sources.finding import SUFFIXES, find_files
from common.data.sources.label_file import LabelFile, LabelRow, LabelRows, read_label_file
from common.data.sources.source import ImageList, PathSource, Requirements, Splits, Unlabelled
from common.data.sources.tree import LocalTree
from common.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_NAMES = {
    TRAIN: {"train", "training"},
    VALIDATION: {"val", "valid", "validation", "dev"},
    TEST: {"test", "testing"},
}
"""Names of folders that hold a split, in small letters."""

MOST_LISTED = 3
"""Names that a line about a label file lists, at most."""


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
        reader = FileReader.of(LocalTree(root), names, pixel_format)
        ignored = dict(found.ignored + Counter({"outside the folders of classes": outside}))
        items = np.array(names, object)
        images = Catalogue(reader, items, classes.labels(folders), classes.names, ignored=ignored)
        return layout.split_up(images)

    def open_with_labels(self, location: Path, pixel_format: PixelFormat, labels: LabelFile) -> Splits:
        """Open the images that a label file names.

        Raises:
            InputError: no such folder, or the label file cannot be read, names no image of the folder, or says two
                things of one.
        """
        root = _existing(location)
        found = find_files(root)
        index = FileIndex(found.names)
        rows = read_label_file(labels, index.__contains__)
        named = NamedImages.of(labels.path, rows, index)
        if not named.rows:
            raise InputError(
                f"{labels.path}: none of its {len(rows.rows):,} rows gives a class to an image of {root}; line "
                f"{rows.rows[0].line} names {rows.rows[0].name!r}, {_example(found.names)}"
            )
        ordered = sorted((printable(row.label), name) for name, row in named.rows.items())
        folders, names = [label for label, _ in ordered], [name for _, name in ordered]
        classes = Classes.among(folders)
        groups = np.array([named.rows[name].group or name for name in names], object) if rows.grouped else None
        images = Catalogue(
            FileReader.of(LocalTree(root), names, pixel_format),
            np.array(names, object),
            classes.labels(folders),
            classes.names,
            ignored=dict(found.ignored + named.ignored(found.names)),
            groups=groups,
        )
        splits = Layout.of_labelled(names).split_up(images)
        return splits._replace(notes=(rows.note, *named.notes(labels.path.name), *splits.notes))

    def open_unlabelled(self, location: Path, split: str | None, requirements: Requirements) -> Unlabelled:
        """Open all images; those below a sub-folder that is called like a class of the model have its label."""
        root = _existing(location)
        found = find_files(root)
        layout = Layout.of(found.names)
        labels = requirements.classes.labels([layout.class_name(name) or "" for name in found.names])
        images = ImageList.of_files(found.names, labels)
        return Unlabelled(FileReader.for_model(LocalTree(root), requirements), images, found.ignored)


class NamedImages(NamedTuple):
    """The rows of a label file, matched to the images of a folder.

    Attributes:
        rows: the row of each image that has a class, by the name of its file.
        without_class: the files whose rows name no class.
        missing: the names in rows whose file is not there.
        repeated: the number of rows that name an image again and say the same of it.
    """

    rows: dict[str, LabelRow]
    without_class: set[str]
    missing: list[str]
    repeated: int

    @classmethod
    def of(cls, path: Path, rows: LabelRows, index: FileIndex) -> NamedImages:
        """Find the file of each row.

        Raises:
            InputError: a name may mean several files, or two rows say different things of an image.
        """
        first: dict[str, LabelRow] = {}
        missing: list[str] = []
        for row in rows.rows:
            try:
                name = index.find(row.name)
            except InputError as error:
                raise InputError(f"{path}: line {row.line}: {error}") from error
            if name is None:
                missing.append(row.name)
                continue
            before = first.setdefault(name, row)
            for what, one, other in (("class", before.label, row.label), ("group", before.group, row.group)):
                if one != other:
                    raise InputError(
                        f"{path}: line {row.line}: {row.name} has the {what} {other!r}, and {one!r} in line "
                        f"{before.line}; remove one of the rows"
                    )
        labelled = {name: row for name, row in first.items() if row.label}
        repeated = len(rows.rows) - len(missing) - len(first)
        return cls(labelled, first.keys() - labelled.keys(), missing, repeated)

    def ignored(self, names: Sequence[str]) -> Counter[str]:
        """Count the image files among `names` that are not used, by the reason."""
        n_without_row = len(names) - len(self.rows) - len(self.without_class)
        return Counter({"without a row": n_without_row, "without a class": len(self.without_class)})

    def notes(self, file: str) -> list[str]:
        """Return lines for people about rows that add no image."""
        listed = ", ".join(self.missing[:MOST_LISTED]) + (", …" if len(self.missing) > MOST_LISTED else "")
        counts = {f"without an image: {listed}": len(self.missing), "for an image named before": self.repeated}
        return [f"{file}: {n:,} {'row' if n == 1 else 'rows'} {what}" for what, n in counts.items() if n]


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

    @classmethod
    def of_labelled(cls, names: Sequence[str]) -> Layout:
        """Return the layout of image files whose classes a label file says.

        Folders are splits if every image is in one that sounds like a split, in one for training and in another.
        """
        tops = {name.partition("/")[0] if "/" in name else "" for name in names}
        splits = {top: split for top in tops for split, called in SPLIT_NAMES.items() if top.lower() in called}
        used = set(splits.values())
        return cls(splits if len(splits) == len(tops) and TRAIN in used and len(used) > 1 else {}, {})

    def split_up(self, images: Catalogue) -> Splits:
        """Return images of this layout, whose items are the names of files, as the splits that they are in."""
        if not self.splits:
            sounds = f"taken for classes, not splits: {', '.join(self.doubtful)}"
            return Splits(images, None, notes=(sounds,) if self.doubtful else ())
        splits = np.array([self.split(name) for name in images.items])
        parts = {split: images.take(splits == split) for split in np.unique(splits).tolist()}
        uses = {TRAIN: "training", VALIDATION: "validation", TEST: "the test"}
        alone = VALIDATION in parts and TEST not in parts
        if alone:
            parts[TEST], uses[VALIDATION] = parts.pop(VALIDATION), uses[TEST]
        note = self.note(set(splits.tolist()), uses)
        return Splits(parts[TRAIN], parts.get(TEST), parts.get(VALIDATION), (note,), alone)

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


def _example(names: Sequence[str]) -> str:
    return f"and an image there is {names[0]!r}" if names else "and no image is there"


def _check_folders(root: Path, names: Sequence[str]) -> None:
    """Make sure that there are classes, and that each has images.

    Raises:
        InputError: there are none, or one is empty.
    """
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise InputError(
            f"folder:{root}: no sub-folders; put the images of each class into a folder of its own, or name a "
            "file of their classes by --labels"
        )
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
