"""A small set of images in the style of Herbarium 2021."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def write_metadata(root: Path, tables: object, encoding: str = "utf-8") -> None:
    """Write metadata.json into a folder, which is made if need be."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.json").write_bytes(json.dumps(tables, ensure_ascii=False).encode(encoding))


def herbarium(root: Path, encoding: str = "utf-8", ids: type = int) -> dict[str, list[dict[str, object]]]:
    """Write eight images of two classes with their metadata, and return the metadata.

    Annotations are not in the order of the images, category ids have gaps, and one category has no image.

    Args:
        root: folder to write to.
        encoding: encoding of metadata.json.
        ids: type of all ids: int or str.
    """
    tables: dict[str, list[dict[str, object]]] = {"annotations": [], "images": [], "categories": []}
    tables["categories"] = [
        {"id": ids(c), "name": name} for c, name in ((7, "Séneçon"), (30, "Abies"), (100, "Unseen"))
    ]
    for i in range(8):
        name = f"images/00{i % 2}/{i:02d}/{i}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (30 * i, 0, 0)).save(root / name, quality=100)
        tables["images"].append({"id": ids(1000 + i), "file_name": name, "width": 6, "height": 4})
        annotation = {"id": ids(i), "image_id": ids(1007 - i), "category_id": ids(7 if i < 5 else 30)}
        tables["annotations"].append(annotation)
    write_metadata(root, tables, encoding)
    return tables
