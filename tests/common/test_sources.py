from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from common.data.catalogue import Catalogue, Classes
from common.data.decode import PixelFormat
from common.data.images import Block, CatalogueImages
from common.data.labelled import open_splits
from common.data.sources import open_labelled
from common.data.splits import FoldRule
from common.errors import InputError
from tests.support.images import CLASSES, write_images

RNG = np.random.default_rng(6)
AS_THEY_ARE = PixelFormat()


def load(catalogue: Catalogue) -> Block:
    return CatalogueImages(catalogue).load()


def test_digits_are_scikit_learns() -> None:
    train, test = open_labelled("digits", Path("nowhere"), AS_THEY_ARE)[:2]
    images = load(train)
    assert test is None
    assert images.pixels.shape == (1797, 8, 8, 1)
    assert np.array_equal(images.labels, load_digits().target)
    np.testing.assert_allclose(images.pixels[..., 0], load_digits().images * 255 / 16, atol=0.5)
    assert load(open_labelled("digits", Path("nowhere"), PixelFormat((4, 5))).train).pixels.shape[1:] == (
        4,
        5,
        1,
    )


def test_a_folder_is_read_class_by_class(folder_of_images: Path) -> None:
    (folder_of_images / "notes.txt").write_text("not a class")
    (folder_of_images / "ash" / "notes.txt").write_text("not an image")
    (folder_of_images / ".hidden").mkdir()
    shutil.copytree(folder_of_images / "beech", folder_of_images / "ash" / ".thumbnails")
    (folder_of_images / "cedar" / "deeper").mkdir()
    (folder_of_images / "cedar" / "00.png").rename(folder_of_images / "cedar" / "deeper" / "00.PNG")
    train, test = open_labelled(f"folder:{folder_of_images}", Path(), AS_THEY_ARE)[:2]
    assert test is None
    assert train.class_names == ("ash", "beech", "cedar")
    assert train.shape == (10, 12, 3)
    assert np.bincount(train.labels).tolist() == [20, 20, 20]
    images = load(train)
    for i in (0, 25, 59):
        assert np.array_equal(images.pixels[i], np.asarray(Image.open(folder_of_images / train.names()[i])))


def test_an_image_that_cannot_be_used_is_skipped_with_its_name_and_reason(folder_of_images: Path) -> None:
    (folder_of_images / "beech" / "03.png").write_bytes(b"not an image")
    (folder_of_images / "beech" / "04.png").unlink()
    os.mkfifo(folder_of_images / "beech" / "04.png")
    Image.new("RGB", (5, 5)).save(folder_of_images / "cedar" / "07.png")
    train = open_labelled(f"folder:{folder_of_images}", Path(), AS_THEY_ARE).train
    loaded = CatalogueImages(train).load(names=True)
    assert len(loaded.labels) == len(loaded.pixels) == 57
    assert {skipped.name for skipped in loaded.skipped} == {"beech/03.png", "beech/04.png", "cedar/07.png"}
    reasons = {skipped.name: skipped.reason for skipped in loaded.skipped}
    assert "5x5 where the first image is 10x12" in reasons["cedar/07.png"]
    assert "--size" in reasons["cedar/07.png"]
    assert reasons["beech/04.png"] == "not a regular file"
    assert loaded.names is not None
    label_of = dict(zip(train.names(), train.labels.tolist(), strict=True))
    assert loaded.labels.tolist() == [label_of[str(name)] for name in loaded.names]
    assert loaded.names[-1] == "cedar/19.png"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "no sub-folders"),
        (lambda root: (root / "ash").mkdir(parents=True), "'ash' holds no image"),
        (lambda root: _fill(root / "ash"), "only one class, 'ash'"),
        (lambda root: _fill(root / "ash", b"junk"), "no image in it can be decoded"),
    ],
)
def test_a_folder_that_cannot_be_learnt_from_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], message: str
) -> None:
    root = tmp_path / "images"
    prepare(root)
    with pytest.raises(InputError, match=message):
        open_splits(f"folder:{root}")


def _fill(folder: Path, data: bytes | None = None) -> None:
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "0.png")
    if data is not None:
        (folder / "0.png").write_bytes(data)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_refused(folder_of_images: Path) -> None:
    (folder_of_images / "ash").chmod(0)
    with pytest.raises(InputError, match=r"ash.*make it readable"):
        open_labelled(f"folder:{folder_of_images}", Path(), AS_THEY_ARE)


def test_class_names_escape_what_no_page_can_show(folder_of_images: Path) -> None:
    os.rename(os.fsencode(folder_of_images / "ash"), os.fsencode(folder_of_images) + b"/\xe9rable\x07")  # noqa: PTH104
    names = open_labelled(f"folder:{folder_of_images}", Path(), AS_THEY_ARE).train.class_names
    assert sorted(names) == ["\\udce9rable\\x07", "beech", "cedar"]


@pytest.mark.parametrize("spec", ["", "cifar", "folder", "folder:", "mnist:here", "parquet"])
def test_an_unknown_source_is_refused_with_the_list_of_sources(spec: str) -> None:
    with pytest.raises(
        InputError, match="digits, mnist, fashion-mnist, kmnist, emnist-SET, folder:PATH, herbarium:PATH"
    ):
        open_labelled(spec, Path(), AS_THEY_ARE)


@pytest.mark.parametrize(
    ("folders", "splits", "note"),
    [
        (("train", "val"), (8, 0, 4), "splits: train/ for training, val/ for the test"),
        (("Train", "TEST"), (8, 0, 4), "splits: Train/ for training, TEST/ for the test"),
        (
            ("train", "valid", "test"),
            (8, 4, 4),
            "splits: train/ for training, valid/ for validation, test/ for the test",
        ),
    ],
)
def test_split_folders_are_used_as_the_splits_they_are(
    tmp_path: Path, folders: tuple[str, ...], splits: tuple[int, int, int], note: str
) -> None:
    for folder in folders:
        for name in ("ash", "beech"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(4 if folder.lower() == "train" else 2):
                pixels = RNG.integers(0, 256, (4, 4, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{i}.png")
    found = open_labelled(f"folder:{tmp_path}", Path(), AS_THEY_ARE)
    assert found.train.class_names == ("ash", "beech")
    assert found.notes == (note,)
    parts = (found.train, found.validation, found.test)
    assert tuple(len(part) if part else 0 for part in parts) == splits
    said: list[str] = []
    train, test = open_splits(f"folder:{tmp_path}", FoldRule(None, 0.25), say=said.append)
    assert said == [note]
    assert len(test) == splits[2]
    held_out = [name for name, fold in zip(train.catalogue.names(), train.folds, strict=True) if fold == 0]
    if splits[1]:
        assert {name.partition("/")[0] for name in held_out} == {"valid"}
        assert len(held_out) == splits[1]
    else:
        assert len(held_out) == 2
    train, _ = open_splits(f"folder:{tmp_path}", FoldRule(2, 0))
    assert np.bincount(train.folds).tolist() == [len(train) // 2] * 2


VAL_IS_TEST = "splits: train/ for training, val/ for the test"


def images_at(root: Path, *folders: str) -> None:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).save(root / folder / f"{number}.png")


@pytest.mark.parametrize(
    ("folders", "classes", "sizes", "note"),
    [
        # what sounds like splits and is none
        (("train", "val"), ("train", "val"), (2, 0, 0), "taken for classes, not splits: train, val"),
        (("val/a", "test/a"), ("test", "val"), (2, 0, 0), "taken for classes, not splits: test, val"),
        (("train/a", "extra/a"), ("extra", "train"), (2, 0, 0), "taken for classes, not splits: train"),
        # splits beside other things, or in other words
        (
            ("train/a", "train/b", "val/a", "docs"),
            ("a", "b"),
            (2, 0, 1),
            "splits: train/ for training, val/ for the test",
        ),
        (
            ("train/Ash", "train/b", "val/ash"),
            ("Ash", "b"),
            (2, 0, 1),
            "splits: train/ for training, val/ for the test",
        ),
        (
            ("train/a", "val/a", "valid/b", "test/b"),
            ("a", "b"),
            (1, 2, 1),
            "splits: train/ for training, val/ and valid/ for validation, test/ for the test",
        ),
        (
            ("train/a", "Train/b", "test/a"),
            ("a", "b"),
            (2, 0, 1),
            "splits: Train/ and train/ for training, test/ for the test",
        ),
        # images of no class
        (("train/a", "train/b", "test/unknown"), ("a", "b"), (2, 0, 0), "splits: train/ for training"),
        (
            ("train/a", "train/b", "val/b", "test"),
            ("a", "b"),
            (2, 0, 1),
            "splits: train/ for training, val/ for the test",
        ),
    ],
)
def test_folders_that_sound_like_splits(
    tmp_path: Path, folders: tuple[str, ...], classes: tuple[str, ...], sizes: tuple[int, int, int], note: str
) -> None:
    images_at(tmp_path, *folders)
    found = open_labelled(f"folder:{tmp_path}", Path(), AS_THEY_ARE)
    assert found.train.class_names == classes
    assert tuple(len(part) if part else 0 for part in (found.train, found.validation, found.test)) == sizes
    assert found.notes == (note,)
    assert sum(sizes) + sum(found.train.ignored.values()) == len(folders)
    if found.test is not None:
        assert {classes[label] for label in found.test.labels} <= set(classes)


def test_test_images_without_classes_are_left_to_prediction(tmp_path: Path) -> None:
    for name in ("train/ash", "train/beech", "test"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).save(tmp_path / name / "1.png")
    found = open_labelled(f"folder:{tmp_path}", Path(), AS_THEY_ARE)
    assert found.test is None
    assert found.train.class_names == ("ash", "beech")
    assert found.train.ignored == {"outside the folders of classes": 1}


def test_a_name_composed_or_decomposed_is_one_class(tmp_path: Path) -> None:
    for number, form in enumerate(("NFC", "NFD")):
        folder = tmp_path / unicodedata.normalize(form, "Érable")
        folder.mkdir()
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "ash").mkdir()
    Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).save(tmp_path / "ash" / "1.png")
    images = open_labelled(f"folder:{tmp_path}", Path(), AS_THEY_ARE).train
    assert images.class_names == ("ash", "Érable")
    assert np.bincount(images.labels).tolist() == [1, 2]
    old = Classes(("ash", unicodedata.normalize("NFD", "Érable")))
    assert old.positions(images.classes).tolist() == [0, 1]


def test_another_source_is_the_test_set_with_the_classes_of_the_training_images(tmp_path: Path) -> None:
    write_images(tmp_path / "here")
    write_images(tmp_path / "there")
    shutil.rmtree(tmp_path / "there" / "ash")  # the others are classes 0 and 1 there, and 1 and 2 here
    (tmp_path / "there" / "notes.txt").touch()
    (tmp_path / "here" / "notes.txt").touch()
    said: list[str] = []
    train, test = open_splits(
        f"folder:{tmp_path / 'here'}", test_data=f"folder:{tmp_path / 'there'}", say=said.append
    )
    assert (len(train), len(test)) == (60, 40)
    assert test.class_names == train.class_names == CLASSES
    loaded = test.load(names=True)
    assert [CLASSES[label] for label in loaded.labels] == [str(name).split("/")[0] for name in loaded.names or ()]
    assert said == ["2 files ignored: 2 .txt"]
    assert train.catalogue.ignored == {".txt": 2}
    shutil.copytree(tmp_path / "there" / "cedar", tmp_path / "there" / "oak")
    with pytest.raises(InputError, match=r"images of the class 'oak', which folder:.*here has not"):
        open_splits(f"folder:{tmp_path / 'here'}", test_data=f"folder:{tmp_path / 'there'}")
    shutil.rmtree(tmp_path / "there")
    for name in CLASSES[:2]:
        (tmp_path / "there" / name).mkdir(parents=True)
        Image.new("RGB", (5, 6)).save(tmp_path / "there" / name / "a.png")
    with pytest.raises(InputError, match=r"images of 6x5x3, and folder:.* has 10x12x3; use --size"):
        open_splits(f"folder:{tmp_path / 'here'}", test_data=f"folder:{tmp_path / 'there'}")
