"""Herbarium metadata: labels, files and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.data.catalogue import Catalogue, Classes
from common.data.decode import DECODING_STEPS, PixelFormat
from common.data.images import Block, CatalogueImages
from common.data.sources import open_labelled, open_unlabelled
from common.data.sources.source import Requirements
from common.errors import InputError
from tests.support.herbarium import herbarium, write_metadata

AS_THEY_ARE = PixelFormat()


def load(catalogue: Catalogue) -> Block:
    return CatalogueImages(catalogue).load()


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("ids", [int, str])
def test_herbarium_joins_on_the_image_and_maps_labels_densely(tmp_path: Path, encoding: str, ids: type) -> None:
    herbarium(tmp_path / "train", encoding, ids)
    train, test = open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE)[:2]
    assert test is None
    assert train.class_names == ("Séneçon", "Abies")
    label_of = {train.names()[i]: int(train.labels[i]) for i in range(len(train))}
    assert label_of["images/001/07/7.jpg"] == 0  # image 1007 is annotated first, with category 7
    assert label_of["images/000/00/0.jpg"] == 1
    assert sorted(label_of.values()) == [0] * 5 + [1] * 3
    assert len(load(train).labels) == 8
    assert len(open_labelled(f"herbarium:{tmp_path}/train/metadata.json", Path(), AS_THEY_ARE).train) == 8


def _change(table: str, **fields: object) -> Callable[[dict[str, list[dict[str, object]]]], object]:
    def change(tables: dict[str, list[dict[str, object]]]) -> object:
        tables[table][0].update(fields)
        return tables

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change("annotations", category_id=8), "label 8, which is not in `categories`"),
        (_change("annotations", image_id=9999), "image 9999, which is not in `images`"),
        (_change("annotations", image_id=1006, category_id=30), "image 1006 has two labels"),
        (_change("images", file_name="../../etc/passwd"), "leads out of its folder"),
        (_change("images", file_name="/etc/passwd"), "leads out of its folder"),
        (_change("images", file_name="..\\x.jpg"), "leads out of its folder"),
        (_change("images", file_name="C:\\x.jpg"), "leads out of its folder"),
        (_change("images", file_name="images/001/07/7.jpg"), r"images/001/07/7.jpg has two labels, 7 and 30"),
        (_change("categories", id=30), "occur twice"),
        (lambda tables: {**tables, "annotations": []}, "no annotations"),
        (lambda tables: {"images": tables["images"]}, "no list of records called 'annotations'"),
        (lambda tables: [1, 2], "no list of records"),
        (lambda tables: {**tables, "images": tables["images"][1:]}, "image 1000, which is not in `images`"),
        (lambda tables: {**tables, "images": [{"id": i} for i in range(1000, 1008)]}, "without 'file_name'"),
    ],
)
def test_metadata_that_does_not_hold_together_is_refused(tmp_path: Path, change, message: str) -> None:
    tables = herbarium(tmp_path)
    write_metadata(tmp_path, change(tables))
    with pytest.raises(InputError, match=message) as caught:
        open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE)
    assert "\n" not in str(caught.value)


def test_paths_of_windows_and_absolute_ones_inside_are_taken(tmp_path: Path) -> None:
    tables = herbarium(tmp_path)
    for number, image in enumerate(tables["images"]):
        name = str(image["file_name"])
        image["file_name"] = name.replace("/", "\\") if number % 2 else str(tmp_path / name)
    write_metadata(tmp_path, tables)
    images = open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE).train
    assert len(load(images).labels) == 8
    assert all(name.startswith("images/") for name in images.names())


def test_herbarium_2022_is_read_as_it_is_published(tmp_path: Path) -> None:
    tables = herbarium(tmp_path / "train_images")
    (tmp_path / "train_images" / "metadata.json").unlink()
    images = [{"image_id": i["id"], "file_name": i["file_name"], "license": 1} for i in tables["images"]]
    categories = [
        {"category_id": c["id"], "scientificName": c["name"], "genus": "x"} for c in tables["categories"]
    ]
    (tmp_path / "train_metadata.json").write_text(
        json.dumps({"annotations": tables["annotations"], "images": images, "categories": categories})
    )
    train = open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE).train
    assert train.classes == Classes(("Séneçon", "Abies"), ("7", "30"))
    assert len(load(train).labels) == 8
    (tmp_path / "train_images").rename(tmp_path / "test_images")
    (tmp_path / "test_metadata.json").write_text(json.dumps(images))
    required = Requirements(AS_THEY_ARE, train.shape, train.classes, DECODING_STEPS)
    found = open_unlabelled(f"herbarium:{tmp_path}", Path(), None, required)
    assert found.images.ids == [str(image["image_id"]) for image in images]
    assert len(found.reader.read(found.images.items).kept) == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "names no file"), ("a\0b.jpg", "names no file"), ("images/../../x.jpg", "leads out of its folder")],
)
def test_a_file_name_is_refused_for_its_own_reason(tmp_path: Path, name: str, message: str) -> None:
    tables = herbarium(tmp_path)
    tables["images"][0]["file_name"] = name
    write_metadata(tmp_path, tables)
    with pytest.raises(InputError, match=message):
        open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE)


def test_images_without_annotation_are_counted(tmp_path: Path) -> None:
    tables = herbarium(tmp_path)
    tables["images"][2]["file_name"] = "images/../" + str(tables["images"][2]["file_name"])
    del tables["annotations"][:2]
    write_metadata(tmp_path, tables)
    images = open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE).train
    assert len(load(images).labels) == 6
    assert images.ignored == {"without annotation": 2}
    (tmp_path / "metadata.json").write_bytes(json.dumps(tables).encode("utf-16"))
    with pytest.raises(InputError, match="is UTF-16; save it as UTF-8"):
        open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE)


def test_a_file_that_is_named_twice_is_one_image(tmp_path: Path) -> None:
    tables = herbarium(tmp_path)
    tables["images"].append({**tables["images"][3], "id": 2000})
    tables["annotations"].append({"id": 99, "image_id": 2000, "category_id": 7})
    write_metadata(tmp_path, tables)
    images = open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE).train
    assert len(images) == 8
    assert images.ignored == {"named before": 1}


def test_categories_of_one_name_stay_apart(tmp_path: Path) -> None:
    tables = herbarium(tmp_path)
    for category in tables["categories"]:
        category["name"] = "Abies"
    write_metadata(tmp_path, tables)
    images = open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE).train
    assert images.classes == Classes(("Abies", "Abies"), ("7", "30"))
    swapped = replace(images, labels=1 - images.labels)
    assert images.digest() != swapped.digest()
    assert images.classes.positions(Classes(("Abies", "x"), ("30", "8"))).tolist() == [1, -1]


def test_missing_and_broken_metadata_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no .*train/metadata.json"):
        open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE)
    (tmp_path / "metadata.json").write_text('{"images": [')
    with pytest.raises(InputError, match="not JSON"):
        open_labelled(f"herbarium:{tmp_path}", Path(), AS_THEY_ARE)
