"""Herbarium-2021 style metadata: COCO-like JSON beside the images (kaggle.com/c/herbarium-2021-fgvc8)."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.catalogue import Catalogue, printable
from common.datasets.files import FileReader
from common.decode import PixelFormat
from common.errors import InputError

Record = dict[str, Any]


def open_herbarium(path: Path, form: PixelFormat) -> tuple[Catalogue, None]:
    """Open PATH/train/metadata.json, PATH/metadata.json or PATH itself.

    The challenge's test images carry no labels, so no test set comes of it.

    Raises:
        InputError: the metadata is missing, is not what it should be, or leads out of its folder.
    """
    metadata = _find(path)
    tables = _read(metadata)
    images = _by_id(metadata, "images", tables["images"])
    categories = _by_id(metadata, "categories", tables["categories"])

    category_of: dict[str, str] = {}  # image id -> category id; ids are integers or strings, so compare strings
    for annotation in tables["annotations"]:
        image, category = _field(metadata, annotation, "image_id"), _field(metadata, annotation, "category_id")
        if image not in images:
            raise InputError(f"{metadata}: an annotation names image {image}, which is not in `images`")
        if category not in categories:
            raise InputError(f"{metadata}: image {image} has label {category}, which is not in `categories`")
        if category_of.setdefault(image, category) != category:
            raise InputError(f"{metadata}: image {image} has two labels, {category_of[image]} and {category}")
    if not category_of:
        raise InputError(f"{metadata}: no annotations, so no labelled images")

    present = sorted(set(category_of.values()), key=_numeric_first)
    dense = {category: label for label, category in enumerate(present)}
    class_names = tuple(printable(str(categories[category].get("name", category))) for category in present)
    names = [_safe_name(metadata, images[image]) for image in category_of]
    labels = np.array([dense[category] for category in category_of.values()], np.int64)
    reader = FileReader.of(metadata.parent, names, form)
    return Catalogue(reader, np.array(names, dtype=object), labels, class_names), None


def _find(path: Path) -> Path:
    candidates = [path] if path.suffix == ".json" else [path / "train/metadata.json", path / "metadata.json"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"herbarium:{path}: no {' or '.join(str(c) for c in candidates)}")


def _read(metadata: Path) -> dict[str, list[Record]]:
    data = metadata.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # some copies of the data set are
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{metadata}: not JSON ({error})") from error
    for key in ("annotations", "images", "categories"):
        rows = tables.get(key) if isinstance(tables, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{metadata}: no list of records called {key!r}; is it training metadata?")
    return {key: tables[key] for key in ("annotations", "images", "categories")}


def _field(metadata: Path, record: Record, key: str) -> str:
    if key not in record:
        raise InputError(f"{metadata}: a record without {key!r}: {str(record)[:80]}")
    return str(record[key])


def _by_id(metadata: Path, table: str, records: list[Record]) -> dict[str, Record]:
    found = {_field(metadata, record, "id"): record for record in records}
    if len(found) != len(records):
        raise InputError(f"{metadata}: {len(records) - len(found)} ids in {table!r} occur twice")
    return found


def _safe_name(metadata: Path, image: Record) -> str:
    """The image's path relative to the metadata's folder, which it must not leave."""
    name = _field(metadata, image, "file_name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise InputError(f"{metadata}: file_name {name!r} leads out of its folder; refused")
    return path.as_posix()


def _numeric_first(category: str) -> tuple[int, int, str]:
    return (0, int(category), "") if category.isdecimal() else (1, 0, category)
