"""Herbarium-2021 style metadata: COCO-like JSON beside the images (kaggle.com/c/herbarium-2021-fgvc8)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from common.data.catalogue import Catalogue, Classes, printable
from common.data.decode import PixelFormat
from common.data.sources.files import FileReader
from common.errors import InputError

Record = dict[str, Any]

ANNOTATED = ("train/metadata.json", "metadata.json")
"""Where metadata with annotations are below a folder."""
ANY = ("test/metadata.json", "metadata.json", "train/metadata.json")
"""Where metadata are whose images are to be predicted."""


class Metadata(NamedTuple):
    """What a metadata.json says; ids are text, because some copies of the data set have numbers and some have not.

    Attributes:
        root: the folder that it is in.
        files: by the image's id, its path relative to the root.
        category_of: by the image's id, the category's; of annotated images, in the order of the annotations.
        classes: the categories that are there in annotations.
    """

    root: Path
    files: dict[str, str]
    category_of: dict[str, str]
    classes: Classes


def open_herbarium(path: Path, form: PixelFormat) -> tuple[Catalogue, None]:
    """Open PATH/train/metadata.json, PATH/metadata.json or PATH itself.

    The challenge's test images carry no labels, so no test set comes of it.

    Raises:
        InputError: the metadata is missing, is not what it should be, or leads out of its folder.
    """
    file = _find(path, ANNOTATED)
    metadata = _read(file, annotated=True)
    if not metadata.category_of:
        raise InputError(f"{file}: no annotations, so no labelled images")
    names = [metadata.files[image] for image in metadata.category_of]
    dense = {category: label for label, category in enumerate(metadata.classes.written)}
    labels = np.array([dense[category] for category in metadata.category_of.values()], np.int64)
    reader = FileReader.of(metadata.root, names, form)
    return Catalogue(reader, np.array(names, dtype=object), labels, *metadata.classes), None


def list_herbarium(path: Path) -> Metadata:
    """Read PATH/test/metadata.json, PATH/metadata.json, PATH/train/metadata.json or PATH itself.

    Raises:
        InputError: as of open_herbarium, but that there may be no annotations.
    """
    return _read(_find(path, ANY), annotated=False)


def _find(path: Path, names: Sequence[str]) -> Path:
    candidates = [path] if path.suffix == ".json" else [path / name for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"herbarium:{path}: no {' or '.join(str(c) for c in candidates)}")


def _read(file: Path, annotated: bool) -> Metadata:
    tables = _tables(file, annotated)
    images = _by_id(file, "images", tables["images"])
    categories = _by_id(file, "categories", tables["categories"])
    category_of: dict[str, str] = {}
    for annotation in tables["annotations"]:
        image, category = _field(file, annotation, "image_id"), _field(file, annotation, "category_id")
        if image not in images:
            raise InputError(f"{file}: an annotation names image {image}, which is not in `images`")
        if category not in categories:
            raise InputError(f"{file}: image {image} has label {category}, which is not in `categories`")
        if category_of.setdefault(image, category) != category:
            raise InputError(f"{file}: image {image} has two labels, {category_of[image]} and {category}")
    present = sorted(set(category_of.values()), key=_numeric_first)
    names = tuple(printable(str(categories[category].get("name", category))) for category in present)
    files = {image: _safe_name(file, record) for image, record in images.items()}
    return Metadata(file.parent, files, category_of, Classes(names, tuple(present)))


def _tables(file: Path, annotated: bool) -> dict[str, list[Record]]:
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # some copies of the data set are
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    found = {}
    for key in ("annotations", "images", "categories"):
        optional = key != "images" and not annotated
        rows = tables.get(key, [] if optional else None) if isinstance(tables, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            hint = "; is it training metadata?" if annotated else ""
            raise InputError(f"{file}: no list of records called {key!r}{hint}")
        found[key] = rows
    return found


def _field(file: Path, record: Record, key: str) -> str:
    if key not in record:
        raise InputError(f"{file}: a record without {key!r}: {str(record)[:80]}")
    return str(record[key])


def _by_id(file: Path, table: str, records: list[Record]) -> dict[str, Record]:
    found = {_field(file, record, "id"): record for record in records}
    if len(found) != len(records):
        raise InputError(f"{file}: {len(records) - len(found)} ids in {table!r} occur twice")
    return found


def _safe_name(file: Path, image: Record) -> str:
    """The image's path relative to the metadata's folder, which it must not leave."""
    name = _field(file, image, "file_name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise InputError(f"{file}: file_name {name!r} leads out of its folder; refused")
    return path.as_posix()


def _numeric_first(category: str) -> tuple[int, int, str]:
    return (0, int(category), "") if category.isdecimal() else (1, 0, category)
