"""Classes that come one at a time and go again: a fit without a class is one that never had it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from common.data.splits import hashed_test, stable_hashes
from common.errors import InputError
from common.ridge.model import RidgeModel
from common.ridge.moments_file import SavedMoments
from spark_jobs import gram, ingest
from spark_jobs.ingestion.options import TEST_FRACTION
from tests.support.jobs import AGREED, metrics_of, run_main
from tests.support.moments import assert_identical

pytestmark = pytest.mark.spark

NAMES = ("eight", "three", "zero", "five")
"""Classes in the order in which they come."""

FLAGS = ("--lambdas", "1,100", "--folds", "3")
EACH = 40


def write_digits(folder: Path) -> None:
    """Write the first digits of four classes, scanned by hand, as files."""
    digits = load_digits()
    for name, digit in zip(NAMES, (8, 3, 0, 5), strict=True):
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(digits.images[digits.target == digit][:EACH]):
            Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / name / f"{i:02d}.png")


def ingested(source: Path | str, table: Path, *flags: str | Path) -> None:
    assert ingest.main([str(source), str(table), "--grey", "--quiet", *map(str, flags)]) == 0


@pytest.fixture(scope="module")
def folder(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of all four classes ("all"), without "eight" ("rest"), and of "eight" alone ("eight").

    "all" grew class by class, and moments of it were saved each time, from those before: all.npz is the last file.
    never.npz are moments of "rest", eight.npz those of "eight", and both.npz their sum.
    """
    folder = tmp_path_factory.mktemp("dropping")
    images = folder / "images"
    write_digits(images)
    for n in range(2, len(NAMES) + 1):
        for name in NAMES[:n]:
            shutil.copytree(images / name, folder / "now" / name, dirs_exist_ok=True)
        ingested(f"folder:{folder / 'now'}", folder / "all")
        before = [] if n == 2 else ["--add-moments", folder / f"{n - 1}.npz"]
        fit(folder, "all", folder / f"run-{n}", *before, "--save-moments", folder / f"{n}.npz")
    (folder / f"{len(NAMES)}.npz").rename(folder / "all.npz")
    for name in NAMES:
        if name != "eight":
            shutil.copytree(images / name, folder / "others" / name)
    (folder / "names.txt").write_text("\n".join(name for name in NAMES if name != "eight"))
    (folder / "every.txt").write_text("\n".join(NAMES))
    ingested(f"folder:{folder / 'others'}", folder / "rest", "--classes", folder / "names.txt")
    ingested(f"{images}/eight/*", folder / "eight", "--classes", folder / "every.txt")
    fit(folder, "rest", folder / "never", "--save-moments", folder / "never.npz")
    fit(folder, "eight", folder / "alone", "--save-moments", folder / "eight.npz")
    words = ["--add-moments", folder / "never.npz", "--save-moments", folder / "both.npz"]
    fit(folder, "eight", folder / "both", *words)
    return folder


def fit(folder: Path, table: str, out: Path, *flags: object) -> dict[str, Any]:
    return run_main(gram.main, out, "--data", f"parquet:{folder / table}", *FLAGS, *map(str, flags))


def test_classes_that_come_one_at_a_time_are_those_of_all_at_once(folder: Path, tmp_path: Path) -> None:
    grown = metrics_of(folder / f"run-{len(NAMES)}")
    once = fit(folder, "all", tmp_path / "once")
    assert tuple(once["classes"]) == NAMES
    assert grown["moments_files"]["added"] < once["images"]["train"]
    for key in AGREED:
        assert grown[key] == once[key], key
    one, other = RidgeModel.load(folder / f"run-{len(NAMES)}"), RidgeModel.load(tmp_path / "once")
    assert np.array_equal(one.weights, other.weights)


@pytest.mark.parametrize(
    ("table", "flags"),
    [
        ("all", []),  # nothing was summed before: the images are left out
        ("all", ["--add-moments", "all.npz"]),  # the class's own images are read, and subtracted
        ("rest", ["--add-moments", "both.npz", "--subtract-moments", "eight.npz"]),
    ],
    ids=["read", "subtracted", "subtracted by file"],
)
def test_a_fit_without_a_class_is_one_that_never_had_it(
    folder: Path, tmp_path: Path, table: str, flags: list[str]
) -> None:
    flags = [word if word.startswith("-") else str(folder / word) for word in flags]
    out = tmp_path / "fewer"
    found = fit(folder, table, out, *flags, "--drop-class", "eight", "--save-moments", tmp_path / "fewer.npz")
    assert found["dropped_classes"] == ["eight"]
    expected = metrics_of(folder / "never")
    for key in AGREED:
        assert found[key] == expected[key], key
    one, other = RidgeModel.load(out), RidgeModel.load(folder / "never")
    assert np.array_equal(one.weights, other.weights)
    fewer, never = SavedMoments.load(tmp_path / "fewer.npz"), SavedMoments.load(folder / "never.npz")
    assert fewer.basis.class_names == never.basis.class_names
    assert sorted(fewer.moments) == sorted(never.moments)
    for fold, own in fewer.moments.items():
        assert_identical(own, never.moments[fold])


def test_saved_moments_know_which_class_was_dropped(folder: Path, tmp_path: Path) -> None:
    """Drop twice, the second time from files without the class, with another class besides; never in silence."""
    known = ["--add-moments", str(folder / "all.npz")]
    fit(folder, "all", tmp_path / "a", *known, "--drop-class", "eight", "--save-moments", tmp_path / "a.npz")
    known = ["--add-moments", str(tmp_path / "a.npz")]
    with pytest.raises(InputError, match=r"the images of eight in this table were dropped .* here too"):
        fit(folder, "all", tmp_path / "b", *known)
    again = fit(folder, "all", tmp_path / "c", *known, "--drop-class", "eight")
    assert again["moments_sha256"] == metrics_of(folder / "never")["moments_sha256"]
    two = fit(folder, "all", tmp_path / "e", *known, "--drop-class", "eight,zero")
    expected = fit(folder, "all", tmp_path / "f", "--drop-class", "zero,eight")
    assert two["classes"] == ["three", "five"]
    for key in AGREED:
        assert two[key] == expected[key], key


def test_what_was_forgotten_is_not_dropped_once_more(folder: Path, tmp_path: Path) -> None:
    names = [f"{name}/{i:02d}.png" for name in ("five", "eight") for i in range(EACH)]
    in_test = hashed_test(stable_hashes(names), TEST_FRACTION)
    training = [name for name, held_out in zip(names, in_test, strict=True) if not held_out]
    five, eight = (next(n for n in training if n.startswith(name)) for name in ("five", "eight"))
    (tmp_path / "gone.txt").write_text(f"{eight}\n{five}\n")
    forget = ["--forget", tmp_path / "gone.txt"]
    known = ["--add-moments", folder / "all.npz", "--save-moments", tmp_path / "g.npz"]
    fit(folder, "all", tmp_path / "g", *known, *forget)
    known = ["--add-moments", tmp_path / "g.npz", "--drop-class", "eight"]
    found = fit(folder, "all", tmp_path / "h", *known, *forget)
    (tmp_path / "gone.txt").write_text(f"{five}\n")
    expected = fit(folder, "rest", tmp_path / "i", *forget)
    assert found["moments_sha256"] == expected["moments_sha256"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("parquet:{}/all --drop-class nine", "neither --data nor --add-moments has such a class; the others are"),
        ("parquet:{}/all --drop-class three,eight,zero", "leaves 1 of 4 classes, and a classifier needs two"),
        (
            "parquet:{}/rest --add-moments {}/both.npz --drop-class eight",
            "of its images count in --add-moments, and neither --data nor --subtract-moments holds them",
        ),
        ("parquet:{}/all --limit 50 --drop-class eight", "--drop-class and --limit do not go together"),
        ("folder:{}/images --grey --drop-class eight", "classes are dropped from tables, and --data is none"),
        ("parquet:{}/rest --add-moments {}/both.npz", "this run has not 'eight'.* --drop-class drops one"),
    ],
)
def test_what_cannot_be_dropped_is_one_line(folder: Path, tmp_path: Path, words: str, message: str) -> None:
    flags = words.replace("{}", str(folder)).split()
    with pytest.raises(InputError, match=message):
        gram.main(["--data", *flags, *FLAGS, "--quiet", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
