from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.catalogue import Classes
from common.data.decode import DECODING_STEPS, PixelFormat
from common.data.sources.source import ImageList, Requirements
from common.errors import InputError
from common.predict.inputs import Inputs, open_inputs
from tests.support.herbarium import herbarium

CLASSES = Classes(("cedar", "ash"))
REQUIRED = Requirements(PixelFormat((8, 8), grey=True), (8, 8, 1), CLASSES, DECODING_STEPS)


def opened(spec: str, split: str | None = None, requirements: Requirements = REQUIRED) -> Inputs:
    return open_inputs(spec, Path("nowhere"), split, requirements, Path.cwd())


def everything(inputs: Inputs, most: int = 7) -> ImageList:
    parts = []
    while not inputs.ended:
        part = inputs.take(most)
        assert len(part) <= most
        parts.append(part)
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def test_a_folder_knows_classes_by_the_names_of_its_folders(folder_of_images: Path) -> None:
    Image.new("L", (5, 5)).save(folder_of_images / "loose.png")
    found = everything(opened(f"folder:{folder_of_images}"))
    assert found.ids == sorted(found.ids)
    assert len(found) == 61
    label = {"ash": 1, "beech": -1, "cedar": 0, "loose.png": -1}
    assert found.labels.tolist() == [label[name.partition("/")[0]] for name in found.ids]
    read = opened(f"folder:{folder_of_images}").reader.read(found.items[:3])
    assert read.pixels.shape == (3, 8, 8, 1)


def test_named_sets_and_what_is_no_source() -> None:
    digits = opened("digits", requirements=REQUIRED._replace(classes=Classes(tuple("9876543210"))))
    assert digits.total == 1797
    assert everything(digits, 500).labels[:3].tolist() == [9, 8, 7]
    for spec, message in {
        "parquet:x": "no dataset.json there",
        "parquet:": "no such source",
        "folder:": "no such source",
        "folder:/nowhere": "no such folder",
        "list:/nowhere": "No such file",
        "herbarium:/nowhere": "no /nowhere/test/metadata.json",
        "list:/tmp": "is a folder",
        "folder:~nobody-is-this/x": "home",
    }.items():
        with pytest.raises(InputError, match=message):
            opened(spec)
    with pytest.raises(InputError, match="has no test images"):
        opened("digits", "test")
    with pytest.raises(InputError, match=r"--split train: .* has no splits"):
        opened("folder:/tmp", "train")


def test_herbarium_labels_are_known_by_the_ids_of_categories(tmp_path: Path) -> None:
    herbarium(tmp_path)
    requirements = REQUIRED._replace(classes=Classes(("A", "B"), ("30", "7")))
    found = everything(opened(f"herbarium:{tmp_path}", requirements=requirements))
    assert found.ids == [str(1000 + number) for number in range(8)]
    by_id = dict(zip(found.ids, found.labels.tolist(), strict=True))
    assert by_id["1007"] == 1  # annotated first, with category 7
    assert by_id["1000"] == 0


def test_names_come_when_they_come() -> None:
    reader, writer = os.pipe()
    path = f"/dev/fd/{reader}"
    inputs = opened(f"list:{path}")
    assert len(inputs.take(5)) == 0
    assert not inputs.ended
    os.write(writer, b"a.png\nb")
    assert inputs.peek(5).ids == ["a.png"]
    assert inputs.peek(5).ids == ["a.png"]
    os.write(writer, b".png\r\n\n\xff.png\nlast")
    assert inputs.take(2).ids == ["a.png", "b.png"]
    third = inputs.take(2)
    assert third.ids == ["\\udcff.png"]
    assert third.items.tolist() == ["\udcff.png"]
    assert not inputs.ended
    os.close(writer)
    assert inputs.take(9).ids == ["last"]
    assert inputs.ended
    os.close(reader)


def test_what_is_written_is_left_out_as_often_as_it_is(folder_of_images: Path) -> None:
    names = folder_of_images / "names.txt"
    names.write_text("a\nb\na\nc\na\n")
    inputs = opened(f"list:{names}")
    inputs.leave_out({"a": [5, 3], "c": [-1], "gone": [1]})
    assert everything(inputs, 2).ids == ["b", "a"]
    assert inputs.n_left_out == 3
    summary = inputs.summary(6)
    assert summary.predicted.tolist() == [0, 0, 0, 1, 0, 1]
    assert summary.n_skipped == 1
    assert np.sum(summary.confusion.counts) == 0


def test_a_list_that_is_none_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(bytes(1 << 18))
    with pytest.raises(InputError, match="is this a list of images"):
        opened(f"list:{tmp_path / 'images.zip'}").peek(1)
