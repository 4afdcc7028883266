"""Metadata in the style of Herbarium 2021 and 2022: COCO-like JSON beside the images.

See kaggle.com/c/herbarium-2021-fgvc8 and kaggle.com/c/herbarium-2022-fgvc9. The latter has train_metadata.json
beside train_images/, other keys for ids and names, and no annotations in test_metadata.json.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from common.atomic import readable, refuse_utf16
from common.data.catalogue import Catalogue, Classes, printable
from common.data.decode import PixelFormat
from common.data.sources.files import FileReader
from common.data.sources.source import ImageList, LocalFiles, PathSource, Requirements, Splits, Unlabelled
from common.data.sources.tree import LocalTree
from common.errors import InputError

Record = dict[str, Any]

DRIVE = re.compile(r"[A-Za-z]:(/|$)")
"""Matches an absolute path of Windows."""

ANNOTATED = ("train/metadata.json", "metadata.json", "train_metadata.json")
"""Where a folder may hold metadata with annotations, in the order of preference."""
ANY = ("test/metadata.json", "test_metadata.json", *ANNOTATED)
"""Where a folder may hold metadata of images to predict, in the order of preference."""


class Metadata(NamedTuple):
    """The contents of a metadata.json. Ids are text, because only some copies of the data set have numbers.

    Attributes:
        root: the folder of the file.
        files: by image id, the path relative to the root.
        category_of: by image id, the category's id; annotated images only, in the order of the annotations.
        classes: the categories that occur in annotations.
    """

    root: Path
    files: dict[str, str]
    category_of: dict[str, str]
    classes: Classes


class Herbarium(PathSource):
    """PATH/train/metadata.json, PATH/metadata.json, PATH/train_metadata.json or PATH itself, and the images."""

    kind = "herbarium"

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open the annotated images.

        There is no test set: the challenge's test images carry no labels. A file that is named twice is one image.

        Raises:
            InputError: the metadata is missing or invalid, leads out of its folder, or a file has two labels.
        """
        file = _find(location, ANNOTATED)
        metadata = _read(file, annotated=True)
        if not metadata.category_of:
            raise InputError(f"{file}: no annotations, so no labelled images")
        category_of: dict[str, str] = {}
        for image, category in metadata.category_of.items():
            name = metadata.files[image]
            if category_of.setdefault(name, category) != category:
                raise InputError(f"{file}: {name} has two labels, {category_of[name]} and {category}")
        names = list(category_of)
        label_of = {category: label for label, category in enumerate(metadata.classes.written)}
        labels = np.array([label_of[category] for category in category_of.values()], np.int64)
        reader = FileReader.of(LocalTree(metadata.root), names, pixel_format)
        counts = {
            "named before": len(metadata.category_of) - len(names),
            "without annotation": len(metadata.files) - len(metadata.category_of),
        }
        ignored = {kind: count for kind, count in counts.items() if count}
        images = Catalogue(reader, np.array(names, object), labels, *metadata.classes, ignored=ignored)
        return Splits(images, None)

    def open_unlabelled(self, location: Path, split: str | None, requirements: Requirements) -> Unlabelled:
        """Open all images of PATH/test/metadata.json if it exists, else of the same files as `open`.

        Predictions call the images by their ids. Annotations are optional; annotated images have a label.

        Raises:
            InputError: the metadata is missing or invalid, or leads out of its folder.
        """
        metadata = _read(_find(location, ANY), annotated=False)
        positions = requirements.classes.positions(metadata.classes).tolist()
        label_of = dict(zip(metadata.classes.written, positions, strict=True))
        ids = list(metadata.files)
        category_of = metadata.category_of
        labels = [label_of[category_of[image]] if image in category_of else -1 for image in ids]
        items = np.array(list(metadata.files.values()), object)
        images = ImageList([readable(image) for image in ids], items, np.array(labels, np.int64))
        return Unlabelled(FileReader.for_model(LocalTree(metadata.root), requirements), images)

    def local_files(self, location: Path) -> LocalFiles:
        """Return everything in a folder, or a metadata file with everything beside it."""
        if location.suffix == ".json" and location.is_file():
            return LocalFiles(location.stem, location.parent, sorted(location.parent.iterdir()), location.name)
        return super().local_files(location)


def _find(path: Path, names: Sequence[str]) -> Path:
    candidates = [path] if path.suffix == ".json" else [path / name for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"herbarium:{path}: no {' or '.join(str(c) for c in candidates)}")


def _read(file: Path, annotated: bool) -> Metadata:
    tables = _tables(file, annotated)
    images = _by_id(file, "images", "image_id", tables["images"])
    categories = _by_id(file, "categories", "category_id", tables["categories"])
    category_of: dict[str, str] = {}
    twice: set[str] = set()
    for annotation in tables["annotations"]:
        image, category = _field(file, annotation, "image_id"), _field(file, annotation, "category_id")
        if image not in images:
            raise InputError(f"{file}: an annotation names image {image}, which is not in `images`")
        if category not in categories:
            raise InputError(f"{file}: image {image} has label {category}, which is not in `categories`")
        if category_of.setdefault(image, category) != category:
            if annotated:
                raise InputError(f"{file}: image {image} has two labels, {category_of[image]} and {category}")
            twice.add(image)
    for image in twice:  # to predict it, no label is needed
        del category_of[image]
    present = sorted(set(category_of.values()), key=_numeric_first)
    names = tuple(printable(_class_name(categories[category], category)) for category in present)
    root = file.parent
    if file.stem.endswith("_metadata"):
        root /= f"{file.stem.removesuffix('_metadata')}_images"
    files = {image: _safe_name(file, root, record) for image, record in images.items()}
    return Metadata(root, files, category_of, Classes(names, tuple(present)))


def _class_name(category: Record, identifier: str) -> str:
    return str(category.get("name") or category.get("scientificName") or identifier)


def _tables(file: Path, annotated: bool) -> dict[str, list[Record]]:
    data = file.read_bytes()
    refuse_utf16(data, str(file))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # some copies of the data set are
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if isinstance(tables, list) and not annotated:
        tables = {"images": tables}
    found = {}
    for key in ("annotations", "images", "categories"):
        optional = key != "images" and not annotated
        rows = tables.get(key) if isinstance(tables, dict) else None
        if rows is None and optional and isinstance(tables, dict):
            rows = []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            hint = "; is it training metadata?" if annotated else ""
            raise InputError(f"{file}: no list of records called {key!r}{hint}")
        found[key] = rows
    return found


def _field(file: Path, record: Record, key: str) -> str:
    if key not in record:
        raise InputError(f"{file}: a record without {key!r}: {str(record)[:80]}")
    return str(record[key])


def _by_id(file: Path, table: str, other_key: str, records: list[Record]) -> dict[str, Record]:
    key = other_key if records and "id" not in records[0] and other_key in records[0] else "id"
    found = {_field(file, record, key): record for record in records}
    if len(found) != len(records):
        raise InputError(f"{file}: {len(records) - len(found)} ids in {table!r} occur twice")
    return found


def _safe_name(file: Path, root: Path, image: Record) -> str:
    """The image's path relative to the folder of the images, which it must not leave."""
    name = _field(file, image, "file_name")
    path = PurePosixPath(posixpath.normpath(name.replace("\\", "/")))  # as Windows writes it
    if path.is_absolute() and path.is_relative_to(folder := root.absolute()):
        path = path.relative_to(folder)
    if not name or "\0" in name:
        raise InputError(f"{file}: file_name {name!r} names no file")
    if path.is_absolute() or ".." in path.parts or DRIVE.match(path.as_posix()):
        raise InputError(f"{file}: file_name {name!r} leads out of its folder; refused")
    return path.as_posix()


def _numeric_first(category: str) -> tuple[int, int, str]:
    return (0, int(category), "") if category.isdecimal() else (1, 0, category)
