"""gram on images that were summed before: added, forgotten, and never read twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.features.pixels import PIXELS
from common.ridge.model import RidgeModel
from common.ridge.moments_file import SavedMoments
from spark_jobs import gram, ingest
from tests.support.images import CLASSES, write_images
from tests.support.jobs import AGREED, command, run_main
from tests.support.moments import assert_identical
from tests.support.places import ROOT

pytestmark = pytest.mark.spark


def assert_same_moments(a: Path, b: Path) -> None:
    first, second = SavedMoments.load(a), SavedMoments.load(b)
    assert sorted(first.moments) == sorted(second.moments)
    for fold, own in first.moments.items():
        assert_identical(own, second.moments[fold])


@pytest.fixture(scope="module")
def tables(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of the first images, of the later ones, and of all of them."""
    folder = tmp_path_factory.mktemp("weeks")
    late = write_images(folder / "late")
    shutil.copytree(late, folder / "images")
    ingest.main([f"folder:{folder / 'images'}", str(folder / "all"), "--grey", "--quiet"])
    for name in CLASSES:
        for i in range(20):
            (folder / ("late" if i < 12 else "images") / name / f"{i:02d}.png").unlink()
    for source, table in (("images", "old"), ("late", "new")):
        ingest.main([f"folder:{folder / source}", str(folder / table), "--grey", "--quiet"])
    return folder


@pytest.fixture
def weeks(tables: Path, tmp_path: Path) -> Path:
    """Copies of the tables, which a test may change."""
    for table in ("old", "new", "all"):
        shutil.copytree(tables / table, tmp_path / table)
    return tmp_path


def fit(folder: Path, table: str, out: str, *flags: str | Path) -> dict[str, Any]:
    return run_main(gram.main, folder / out, "--data", f"parquet:{folder / table}", *map(str, flags))


def test_classes_that_come_later_are_those_of_all_at_once(spark: Any, tmp_path: Path) -> None:
    """Classes arrive one at a time, in a table that grows; old images are not summed again."""
    source, table, lambdas = (
        write_images(tmp_path / "all"),
        str(tmp_path / "t"),
        ["--lambdas", "10", "--folds", "3"],
    )
    order = ("beech", "cedar", "ash")
    for name in order[:2]:
        shutil.copytree(source / name, tmp_path / "first" / name)
    shutil.copytree(source / order[2], tmp_path / "later" / order[2])
    ingest.main([f"folder:{tmp_path / 'first'}", table, "--grey", "--quiet"])
    fit(tmp_path, "t", "a", "--save-moments", tmp_path / "first.npz", *lambdas)
    ingest.main([f"folder:{tmp_path / 'later'}", table, "--grey", "--quiet"])
    known = ["--add-moments", tmp_path / "first.npz", "--save-moments", tmp_path / "grown.npz"]
    grown = fit(tmp_path, "t", "b", *known, *lambdas)
    whole = fit(tmp_path, "t", "c", "--save-moments", tmp_path / "whole.npz", *lambdas)
    assert grown["classes"] == list(order)
    assert grown["moments_files"]["added"] < grown["images"]["train"]
    assert_same_moments(tmp_path / "grown.npz", tmp_path / "whole.npz")
    for key in AGREED:
        assert grown[key] == whole[key], key
    one, other = RidgeModel.load(tmp_path / "b"), RidgeModel.load(tmp_path / "c")
    assert np.array_equal(one.weights, other.weights)


@pytest.mark.parametrize("rule", [[], ["--folds", "3"]])
def test_old_and_new_moments_are_those_of_all_at_once(weeks: Path, rule: list[str]) -> None:
    lambdas = ["--lambdas", "10", *rule]
    old = fit(weeks, "old", "a", "--save-moments", weeks / "old.npz", *lambdas)
    both = fit(
        weeks, "new", "b", "--add-moments", weeks / "old.npz", "--save-moments", weeks / "both.npz", *lambdas
    )
    whole = fit(weeks, "all", "c", "--save-moments", weeks / "all.npz", *lambdas)
    assert_same_moments(weeks / "both.npz", weeks / "all.npz")
    one, other = RidgeModel.load(weeks / "b"), RidgeModel.load(weeks / "c")
    assert np.array_equal(one.weights, other.weights)
    assert np.array_equal(one.intercept, other.intercept)
    images = [run["images"]["train"] + (0 if rule else run["images"]["validation"]) for run in (both, whole, old)]
    assert images[0] == images[1]
    assert both["moments_files"] == {"added": images[2], "subtracted": 0}
    assert "moments_files" not in whole

    fit(weeks, "new", "d", "--save-moments", weeks / "new.npz", *lambdas)
    flags = ["--subtract-moments", weeks / "new.npz", "--save-moments", weeks / "rest.npz", *lambdas]
    fit(weeks, "new", "e", "--add-moments", weeks / "old.npz", *flags)
    assert_same_moments(weeks / "rest.npz", weeks / "old.npz")


def test_images_that_were_summed_before_are_not_summed_again(
    weeks: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(weeks, "all", "a", "--save-moments", weeks / "m.npz")
    found = fit(weeks, "all", "b", "--add-moments", weeks / "m.npz", "--save-moments", weeks / "n.npz")
    for key in ("validation_correct", "best_lambda", "test_accuracy", "images"):
        assert found[key] == expected[key]
    assert_same_moments(weeks / "m.npz", weeks / "n.npz")
    assert SavedMoments.load(weeks / "n.npz").identities == SavedMoments.load(weeks / "m.npz").identities
    # a folder is one whole: the same files are the same images
    data = ["--data", f"folder:{folder_of_images}", "--grey"]
    expected = run_main(gram.main, weeks / "c", *data, "--save-moments", str(weeks / "f.npz"))
    found = run_main(gram.main, weeks / "d", *data, "--add-moments", str(weeks / "f.npz"))
    assert found["validation_correct"] == expected["validation_correct"]
    assert found["images"] == expected["images"]


def test_a_table_that_grew_is_fitted_from_what_is_new(weeks: Path, folder_of_images: Path) -> None:
    fit(weeks, "old", "a", "--save-moments", weeks / "old.npz")
    ingest.main([f"folder:{folder_of_images}", str(weeks / "old"), "--quiet"])
    grown = fit(weeks, "old", "b", "--add-moments", weeks / "old.npz", "--save-moments", weeks / "grown.npz")
    whole = fit(weeks, "all", "c", "--save-moments", weeks / "all.npz")
    assert_same_moments(weeks / "grown.npz", weeks / "all.npz")
    for key in ("validation_correct", "best_lambda", "test_accuracy", "images"):
        assert grown[key] == whole[key]


def test_what_does_not_fit_is_refused(weeks: Path) -> None:
    fit(weeks, "old", "a", "--save-moments", weeks / "old.npz")
    fit(weeks, "new", "b", "--save-moments", weeks / "new.npz")
    for flags, message in (
        (["--add-moments", weeks / "old.npz", "--add-moments", weeks / "old.npz"], "in the files before it"),
        (["--subtract-moments", weeks / "old.npz"], "not among those"),
        (["--add-moments", weeks / "new.npz", "--subtract-moments", weeks / "new.npz"], "no usable image is left"),
        (["--add-moments", weeks / "old.npz", "--folds", "3"], "--validation 0.2, and this run has --folds 3"),
        (["--add-moments", weeks / "old.npz", "--limit", "20"], "do not go together"),
        (["--save-moments", weeks / "nowhere" / "m.npz"], "no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            fit(weeks, "new", "run", *flags)
        assert not (weeks / "run").exists()


def test_moments_of_another_data_set_are_refused_in_one_line(weeks: Path) -> None:
    fit(weeks, "old", "a", "--save-moments", weeks / "old.npz")
    done = command(
        "spark-submit", ROOT / "spark_jobs" / "gram.py", "--add-moments", "old.npz", "--out", "run", cwd=weeks
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "incubator modules" not in line]
    said = "moments of images of shape (10, 12, 1), and this run has (8, 8, 1); they cannot be added"
    assert line == f"gram.py: old.npz: {said}"


def test_folds_by_subtraction_count_as_refits_from_scratch_do(weeks: Path, spark: Any) -> None:
    """`total - fold` against a serial fit of the other folds' images, fold by fold."""
    from common.data.sources import open_table
    from common.data.splits import FoldRule
    from common.data.table.reading import TableImages
    from common.ridge.moments import Moments
    from common.ridge.path import ridge_path

    ingest.main(["digits", str(weeks / "digits"), "--quiet"])
    found = fit(weeks, "digits", "run", "--folds", "5")
    table = open_table(f"parquet:{weeks / 'digits'}")
    assert table is not None
    images = TableImages(table, FoldRule(5, 0), "train").load()
    correct = np.zeros(10, np.int64)
    for fold in range(5):
        rest, own = images.folds != fold, images.folds == fold
        path = ridge_path(Moments.of(images.pixels[rest], images.labels[rest], 10), found["lambdas"])
        scores = path.scores(PIXELS(images.pixels[own]))
        correct += (scores.argmax(axis=2) == images.labels[own][:, None]).sum(axis=0)
    assert found["validation_correct"] == correct.tolist()
    assert found["images"]["validation"] == len(images.labels)


def test_classes_that_only_moments_files_hold_are_no_reason_for_a_warning(
    weeks: Path, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(weeks, "old", "a", "--lambdas", "10", "--save-moments", weeks / "old.npz")
    shutil.rmtree(folder_of_images / CLASSES[-1])
    flags = ["--grey", "--quiet", "--classes", str(weeks / "old")]
    ingest.main([f"folder:{folder_of_images}", str(weeks / "few"), *flags])
    capsys.readouterr()
    fit(weeks, "few", "b", "--lambdas", "10")
    assert "1 of 3 classes have no training image" in capsys.readouterr().err
    fit(weeks, "few", "c", "--lambdas", "10", "--add-moments", weeks / "old.npz")
    assert "no training image" not in capsys.readouterr().err
