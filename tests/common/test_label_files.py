"""A folder of images whose classes, and perhaps groups, stand in a label file."""

from __future__ import annotations

import codecs
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from common.data.decode import AS_THEY_ARE
from common.data.images import CatalogueImages
from common.data.labelled import open_splits
from common.data.sources import check_groups, open_labelled
from common.data.sources.label_file import LabelFile
from common.data.sources.source import Splits
from common.data.splits import ALWAYS_TRAINING, FoldRule, hold_out, k_folds
from common.errors import InputError
from spark_jobs import serial
from tests.support.images import CLASSES, write_images
from tests.support.jobs import metrics_of

NAMES = [f"{name}{number:02d}" for name in CLASSES for number in range(20)]
"""The images of `flat`, without suffix; each begins with its class."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images in one folder."""
    root = tmp_path_factory.mktemp("made")
    write_images(root / "by-class")
    (root / "photos").mkdir()
    for path in sorted((root / "by-class").rglob("*.png")):
        path.rename(root / "photos" / f"{path.parent.name}{path.name}")
    return root / "photos"


@pytest.fixture
def photos(tmp_path: Path, made: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "photos"))


def class_of(name: str) -> str:
    return name.rpartition("/")[2].rstrip("0123456789")


def table(delimiter: str = ",", header: str = "image,label", end: str = "\n", suffix: str = "") -> str:
    lines = [header] if header else []
    return (
        end.join([*lines, *(f"{name}{suffix},{class_of(name)}" for name in NAMES)]).replace(",", delimiter) + end
    )


def opened(root: Path, text: str | bytes, **columns: str) -> Splits:
    file = root.parent / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_labelled(f"folder:{root}", Path(), AS_THEY_ARE, LabelFile(file, **columns))


def assert_all_found(splits: Splits) -> None:
    """Check that all images are there, each of its class."""
    images = splits.train
    names = [Path(name).stem for name in images.names()]
    assert sorted(names) == NAMES
    assert images.class_names == CLASSES
    assert [CLASSES[label] for label in images.labels] == [class_of(name) for name in names]
    assert splits.test is None
    assert splits.validation is None


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (table(), "files by 'image', classes by 'label'"),
        (table(suffix=".png"), "files by 'image', classes by 'label'"),
        (table(suffix=".JPG"), "files by 'image', classes by 'label'"),
        (codecs.BOM_UTF8 + table(end="\r\n").encode(), "files by 'image', classes by 'label'"),
        (
            "Class;File Name\n" + "".join(f"{class_of(n)};{n}\n" for n in NAMES),
            "files by 'File Name', classes by 'Class'",
        ),
        (table(delimiter="\t", header="id,species"), "files by 'id', classes by 'species'"),
        (table(header=""), "files by column 1, classes by column 2"),
        (table(header="whatever,it is", delimiter=", "), "files by 'whatever', classes by 'it is'"),
        ('"image","label"\n' + "\n\n".join(f'"{name}", "{class_of(name)}"' for name in NAMES), "by 'label'"),
        ("label,n,image\n" + "".join(f'{class_of(n)},"1,5",{n}\n' for n in NAMES), "files by 'image'"),
        ("image,label,,\n" + "".join(f"photos\\{n}.png,{class_of(n)},,\n" for n in NAMES), "by 'label'"),
        ("image,label\n" + "".join(f"/home/ada/photos/{n}.png,{class_of(n)}\n" for n in NAMES), "by 'label'"),
    ],
)
def test_tables_as_people_have_them(made: Path, text: str | bytes, note: str) -> None:
    splits = opened(made, text)
    assert_all_found(splits)
    assert len(splits.notes) == 1
    assert note in splits.notes[0]
    assert not splits.train.ignored


def test_columns_are_chosen_by_header_or_number(made: Path) -> None:
    rows = "".join(f"x,{class_of(name)},{name},p{name[-1]}\n" for name in NAMES)
    splits = opened(made, "a,b,c,d\n" + rows, file_column="C", label_column="2", group_column="d")
    assert_all_found(splits)
    assert splits.notes == ("labels.csv: files by 'c', classes by 'b', groups by 'd'",)
    assert splits.train.groups is not None
    assert splits.train.groups.tolist() == [f"p{name[-5]}" for name in splits.train.names()]
    assert_all_found(opened(made, rows, file_column="3", label_column="2"))


def test_images_in_a_tree_are_named_by_as_much_of_their_path_as_is_needed(photos: Path) -> None:
    for name in NAMES:
        folder = photos / unicodedata.normalize("NFD", "Érable") / name[-1]
        folder.mkdir(parents=True, exist_ok=True)
        (photos / f"{name}.png").rename(folder / f"{name}.png")
    assert_all_found(opened(photos, table()))
    inner = "".join(f"Érable/{name[-1]}/{name},{class_of(name)}\n" for name in NAMES)
    assert_all_found(opened(photos, inner))
    found = sorted(photos.rglob("ash00.png"))
    shutil.copy(found[0], photos / "ash00.png")  # the row that names it names this one from now on
    splits = opened(photos, table())
    assert "ash00.png" in splits.train.names()
    assert splits.train.ignored == {"without a row": 1}
    shutil.copytree(found[0].parent, photos / "again")  # another ash10
    with pytest.raises(InputError, match=r"labels.csv: line 12: 'ash10' may be '.*' or '.*'; write its path"):
        opened(photos, table())


def test_every_file_and_every_row_is_accounted_for(photos: Path) -> None:
    (photos / "ash03.png").write_bytes(b"damaged")
    (photos / "notes.txt").touch()
    (photos / ".hidden.png").touch()
    rows = table().replace("ash07,ash\n", "").replace("ash08,ash\n", "ash08,\n").replace("ash09,ash\n", "ash09\n")
    splits = opened(photos, rows + "".join(f"gone{i},ash\n" for i in range(4)) + "ash01.png,ash\n")
    images = splits.train
    read = CatalogueImages(images).load()
    assert [skipped.name for skipped in read.skipped] == ["ash03.png"]
    assert images.ignored == {".txt": 1, "hidden": 1, "without a row": 1, "without a class": 2}
    assert len(read.labels) + len(read.skipped) + sum(images.ignored.values()) == len(list(photos.iterdir()))
    assert splits.notes[1:] == (
        "labels.csv: 4 rows without an image: gone0, gone1, gone2, …",
        "labels.csv: 1 row for an image named before",
    )


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", {}, "an empty file"),
        ("image,label\n", {}, "a header and no rows"),
        ("image\nash00\n", {}, "one column, 'image'"),
        (table() + 'ash00,"ash\n', {}, "line 62: cannot be read .*mend its quotes"),
        (table() + "ash00,beech\n", {}, "line 62: ash00 has the class 'beech', and 'ash' in line 2; remove"),
        (table() + "ash00.png,\n", {}, "line 62: ash00.png has the class '', and 'ash' in line 2"),
        (table() + ",ash\n", {}, "line 62: no name of an image"),
        (table() + "ash00,ash,big\n", {}, "line 62: 3 cells, and the first row has 2"),
        (
            "image,label\nx1,ash\nx2,beech\n",
            {},
            "none of its 2 rows gives a class .* line 2 names 'x1', and an image",
        ),
        ("image,label\nash00,\n", {}, "none of its 1 rows gives a class"),
        ("image,size,origin\nash00,1,2\n", {}, "which columns hold .*its columns: image, size, origin"),
        (
            table(),
            {"label_column": "species"},
            "no column 'species' for --label-column; its columns: image, label",
        ),
        (table(header=""), {"group_column": "who"}, "no column 'who' for --group-column; it has no header"),
        (table(), {"group_column": "3"}, "no column '3' for --group-column"),
        (table(), {"label_column": "image", "file_column": "1"}, "which columns hold"),
        (table().encode("utf-16"), {}, "is UTF-16; save it as UTF-8"),
        ("image,label\nash00,Érable\n".encode("latin-1"), {}, "cannot be read as UTF-8"),
    ],
)
def test_what_cannot_be_understood_is_one_line(
    made: Path, text: str | bytes, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=rf"labels.csv: {message}") as caught:
        opened(made, text, **columns)
    assert "\n" not in str(caught.value)


def test_only_folders_take_label_files(made: Path) -> None:
    with pytest.raises(InputError, match=r"labels.csv: label files are for folder:PATH, and digits has labels"):
        open_labelled("digits", Path(), AS_THEY_ARE, LabelFile(Path("labels.csv")))


def test_folders_of_splits_hold_them_if_they_hold_all(photos: Path) -> None:
    for name in NAMES:
        top = photos / ("Train" if name < "cedar10" else "VALID")
        top.mkdir(exist_ok=True)
        (photos / f"{name}.png").rename(top / f"{name}.png")
    splits = opened(photos, table())
    assert splits.notes[1:] == ("splits: Train/ for training, VALID/ for the test",)
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (50, 10)
    rows = "image,label,who\n" + "".join(f"{name},{class_of(name)},{name[-1]}\n" for name in NAMES)
    with pytest.raises(
        InputError, match=r"images of the group '0' are for training and for test; a group must not"
    ):
        check_groups("folder:photos", opened(photos, rows, group_column="who"))
    shutil.copy(photos / "Train" / "ash00.png", photos / "bare.png")
    assert_all = opened(photos, table() + "bare,ash\n")
    assert (len(assert_all.train), assert_all.test, len(assert_all.notes)) == (61, None, 1)


def test_the_same_images_do_not_train_and_test(photos: Path) -> None:
    spec, rule = f"folder:{photos}", FoldRule(None, 0.2)
    labels = LabelFile(photos.parent / "labels.csv")
    labels.path.write_text(table())
    for other in ("test", "validation"):
        with pytest.raises(InputError, match=rf"--{other}-data folder:.*: the same images as --data; name others"):
            open_splits(spec, rule, labels=labels, **{f"{other}_data": spec, f"{other}_labels": labels})
    with pytest.raises(InputError, match=r"--test-data digits: the images of --validation-data too"):
        open_splits(spec, rule, labels=labels, validation_data="digits", test_data="digits")


# groups ------------------------------------------------------------------------------------------------------


def grouped_images(n: int = 3000, n_groups: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 5 uneven classes, and groups of very uneven sizes, each of which prefers some classes."""
    rng = np.random.default_rng(5)
    groups = rng.choice(n_groups, n, p=rng.dirichlet(np.full(n_groups, 0.7)))
    preferred = rng.dirichlet(np.full(5, 0.8), n_groups)
    labels = np.array([rng.choice(5, p=preferred[group]) for group in groups])
    return labels, np.array([f"p{group}" for group in groups], object)


@pytest.mark.parametrize("k", [2, 5, 10])
def test_folds_split_no_group_and_have_their_share_of_each_class(k: int) -> None:
    labels, groups = grouped_images()
    folds = k_folds(labels, k, 3, groups)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    largest = np.unique(groups, return_counts=True)[1].max()
    sizes = np.bincount(folds, minlength=k)
    assert sizes.max() - sizes.min() <= largest
    shares = np.array([np.bincount(labels[folds == fold], minlength=5) / np.bincount(labels) for fold in range(k)])
    sizes = np.array([np.bincount(labels[groups == group], minlength=5) for group in set(groups)])
    largest_parts = sizes.max(axis=0) / np.bincount(labels)
    unavoidable = np.maximum(largest_parts - 1 / k, 0)
    assert (np.abs(shares - 1 / k).max(axis=0) <= unavoidable + 0.4 / k).all()
    assert np.array_equal(folds, k_folds(labels, k, 3, groups))
    assert not np.array_equal(folds, k_folds(labels, k, 4, groups))


@pytest.mark.parametrize("fraction", [0.02, 0.2, 0.5, 0.98])
def test_a_hold_out_splits_no_group_and_has_its_share_of_each_class(fraction: float) -> None:
    labels, groups = grouped_images()
    rest, held_out = hold_out(labels, fraction, 0, "test", groups)
    assert not set(groups[rest]) & set(groups[held_out])
    assert np.array_equal(np.sort(np.concatenate([rest, held_out])), np.arange(len(labels)))
    shares = np.bincount(labels[held_out], minlength=5) / np.bincount(labels)
    assert np.abs(shares - fraction).max() < 0.05


def test_few_groups() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    two = np.array(["a", "a", "a", "a", "a", "b"], object)
    for fraction in (0.01, 0.2, 0.99):
        rest, held_out = hold_out(labels, fraction, 0, "test", two)
        assert len(rest)
        assert len(held_out)
    with pytest.raises(
        InputError, match="images of 2 groups are too few for 3 folds, because a group is never split"
    ):
        k_folds(labels, 3, 0, two)
    with pytest.raises(InputError, match="images of 1 group are too few for training and validation"):
        hold_out(labels, 0.2, 0, "validation", np.full(6, "a", object))


@pytest.mark.parametrize("rule", [FoldRule(None, 0.25), FoldRule(3, 0.25)])
def test_no_group_is_in_two_splits_or_folds(made: Path, rule: FoldRule) -> None:
    file = made.parent / "groups.csv"
    rows = [
        f"{name},{class_of(name)},{'' if name == 'ash00' else 'p' + str(int(name[-2:]) % 7)}" for name in NAMES
    ]
    file.write_text("\n".join(["image,label,who", *rows]))
    labels = LabelFile(file, group_column="who")
    train, test = open_splits(f"folder:{made}", rule, labels=labels, test=0.25, seed=1)
    where: dict[str, set[int]] = {}
    for images, folds in ((train, train.folds), (test, np.full(len(test), -9))):
        assert images.catalogue.groups is not None
        for group, fold in zip(images.catalogue.groups, folds.tolist(), strict=True):
            where.setdefault(group, set()).add(fold)
    assert sorted(where) == ["ash00.png", *(f"p{i}" for i in range(7))]
    assert all(len(folds) == 1 for folds in where.values())
    assert {fold for folds in where.values() for fold in folds} == ({-9, 0, 1, 2} if rule.k else {-9, 0, -1})
    limited, _ = open_splits(f"folder:{made}", rule, labels=labels, test=0.25, seed=1, limit=20)
    assert len(limited) == 20
    assert set(limited.catalogue.names()) < set(train.catalogue.names())


# other places of images --------------------------------------------------------------------------------------


def test_images_for_validation_lie_elsewhere(made: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "there")
    shutil.rmtree(tmp_path / "there" / "ash")  # the others are classes 0 and 1 there, and 1 and 2 here
    (tmp_path / "there" / "beech" / "03.png").write_bytes(b"damaged")
    (tmp_path / "there" / "notes.txt").touch()
    (tmp_path / "labels.csv").write_text(table())
    said: list[str] = []
    train, test = open_splits(
        f"folder:{made}",
        labels=LabelFile(tmp_path / "labels.csv"),
        validation_data=f"folder:{tmp_path / 'there'}",
        say=said.append,
    )
    assert (len(train), len(test)) == (48 + 40, 12)
    assert said[-1] == "1 file ignored: 1 .txt"
    read = train.load(names=True)
    assert [skipped.name for skipped in read.skipped] == ["validation: beech/03.png"]
    assert (read.folds == 0).sum() == 39
    for name, fold, label, pixels in zip(read.names or (), read.folds, read.labels, read.pixels, strict=True):
        assert str(name).startswith("validation: ") == (fold == 0) == (fold != ALWAYS_TRAINING)
        assert CLASSES[label] in str(name)
        assert pixels[:, 4 * label : 4 * label + 4].min() >= 130  # where the class is bright


@pytest.mark.parametrize(
    ("other", "rule", "message"),
    [
        ("folder:THERE", FoldRule(3, 0.2), "--validation-data and --folds 3 do not go together"),
        ("parquet:THERE", FoldRule(None, 0.2), "--validation-data parquet:THERE: a table; name the images"),
        (
            "digits",
            FoldRule(None, 0.2),
            "--validation-data digits: images of the class '0', which folder:.* has not",
        ),
        ("folder:nowhere", FoldRule(None, 0.2), "folder:.*nowhere: no such folder"),
    ],
)
def test_images_for_validation_that_cannot_be_used_are_refused(
    folder_of_images: Path, other: str, rule: FoldRule, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_splits(f"folder:{folder_of_images}", rule, validation_data=other)


def test_of_a_source_with_splits_those_for_validation_are_used(tmp_path: Path) -> None:
    for top in ("train", "val", "test"):
        write_images(tmp_path / "there" / top)
    shutil.rmtree(tmp_path / "there" / "val" / "ash")
    shutil.copytree(tmp_path / "there" / "test", tmp_path / "here")
    said: list[str] = []
    here, there = f"folder:{tmp_path / 'here'}", f"folder:{tmp_path / 'there'}"
    train, _ = open_splits(here, validation_data=there, test_data=there, say=said.append)
    assert (train.folds == 0).sum() == 40
    assert said == [
        "splits: train/ for training, val/ for validation, test/ for the test",
        f"{there}: its 120 other images are left out",
        "splits: train/ for training, val/ for validation, test/ for the test",
        f"{there}: its 100 other images are left out",
    ]
    said.clear()
    train, _ = open_splits(there, validation_data=here, say=said.append)
    assert f"{there}: its own 40 validation images are left out" in said
    assert (train.folds == 0).sum() == 60
    shutil.rmtree(tmp_path / "there" / "test")
    train, test = open_splits(there, test_data=here, say=said.append)
    assert f"{there}: its own test images are for validation now" in said
    assert (len(train), (train.folds == 0).sum(), len(test)) == (100, 40, 60)


def test_a_job_fits_with_a_label_file_as_typed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "photos")
    rows = "".join(f"{name},{class_of(name)},p{int(name[-2:]) % 6}\n" for name in NAMES)
    (tmp_path / "labels.csv").write_text(f"image,label,patient\n{rows}gone,ash,p9\n")
    words = ["--data", "folder:photos", "--labels", "labels.csv", "--group-column", "patient"]
    assert serial.main([*words, "--size", "24x36", "--grey", "--out", "run"]) == 0
    said = capsys.readouterr()
    assert "labels.csv: files by 'image', classes by 'label', groups by 'patient'" in said.out + said.err
    assert "labels.csv: 1 row without an image: gone" in said.out + said.err
    metrics = metrics_of(tmp_path / "run")
    assert metrics["test_accuracy"] == 1
    assert metrics["labels"] == "labels.csv"
    assert metrics["group_column"] == "patient"
    assert sum(metrics["images"].values()) == 60


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group-column", "who"], "--group-column who: a column of a label file; name that by --labels"),
        (["--labels", "s3://b/labels.csv"], "--labels s3://b/labels.csv: copy the file to this machine"),
        (["--labels", "labels.csv"], "labels.csv: label files are for folder:PATH, and digits has labels"),
        (["--test-labels", "a.csv"], "--test-labels a.csv: labels of the images of --test-data; name these too"),
        (["--data", "folder:.", "--labels", "none.csv"], "none.csv: No such file or directory; make it readable"),
        (["--validation-data", "digits", "--folds", "3"], "--validation-data and --folds 3 do not go together"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        serial.main([*flags, "--quiet"])
