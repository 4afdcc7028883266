"""Predictions on Spark: one row per image, with the class that numpy finds, whatever the source."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.data.images import Block, CatalogueImages
from common.data.sources import open_labelled, open_table
from common.data.splits import FoldRule
from common.data.table.reading import TableImages
from common.errors import InputError
from common.ridge.model import RidgeModel
from spark_jobs import ingest, predict, serial
from tests.support.jobs import command, metrics_of, run_main
from tests.support.places import ROOT

pytestmark = pytest.mark.spark


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    parts = sorted((folder / "predictions").iterdir())
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    named = {row["name"]: row for row in rows}
    assert len(named) == len(rows)
    return named


def expected(model: RidgeModel, block: Block) -> dict[str, str]:
    """Compute the classes by their definition, in numpy."""
    assert block.names is not None
    scores = block.pixels.reshape(len(block.pixels), -1) / 255 @ model.weights + model.intercept
    return {str(name): model.class_names[c] for name, c in zip(block.names, scores.argmax(axis=1), strict=True)}


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    run_main(serial.main, folder)
    return folder


def test_predictions_are_numpys_from_a_source_and_from_its_table(
    spark: Any, tmp_path: Path, digits_model: Path
) -> None:
    model = RidgeModel.load(digits_model)
    train = open_labelled("digits", Path(), model.pixel_format).train
    truth = expected(model, CatalogueImages(train).load(names=True))
    metrics = run_main(predict.main, tmp_path / "a", "--model", str(digits_model), "--data", "digits")
    rows = rows_of(tmp_path / "a")
    assert {name: row["predicted"] for name, row in rows.items()} == truth
    assert metrics["images"] == {"predicted": 1797, "unusable": 0, "labelled": 1797, "ignored": 0}
    block = CatalogueImages(train).load(names=True)
    right = [truth[str(name)] == str(label) for name, label in zip(block.names or (), block.labels, strict=True)]
    assert metrics["accuracy"] == np.mean(right)

    ingest.main(["digits", str(tmp_path / "t"), "--quiet"])
    data = ["--model", str(digits_model), "--data", f"parquet:{tmp_path / 't'}", "--partitions", "5"]
    run_main(predict.main, tmp_path / "b", *data)
    assert {name: row["predicted"] for name, row in rows_of(tmp_path / "b").items()} == truth
    table = open_table(f"parquet:{tmp_path / 't'}")
    assert table is not None
    test = TableImages(table, FoldRule(None, 0.2), "test").load(names=True)
    run_main(predict.main, tmp_path / "c", *data, "--split", "test")
    assert {name: row["predicted"] for name, row in rows_of(tmp_path / "c").items()} == expected(model, test)


@pytest.mark.mnist
def test_accuracy_on_mnist_is_the_test_accuracy_of_the_job_that_fitted_it(
    spark: Any, tmp_path: Path, data_root: Path, serial_mnist: Path
) -> None:
    data = ["--data", "mnist", "--data-root", str(data_root)]
    fitted = metrics_of(serial_mnist)
    metrics = run_main(predict.main, tmp_path / "p", "--model", str(serial_mnist), *data, "--split", "test")
    assert metrics["accuracy"] == fitted["test_accuracy"]
    assert metrics["macro_f1"] == fitted["macro_f1"]
    assert len(rows_of(tmp_path / "p")) == 10_000


@pytest.fixture
def trees(spark: Any, tmp_path: Path, folder_of_images: Path) -> Path:
    run_main(serial.main, tmp_path / "model", "--data", f"folder:{folder_of_images}", "--size", "8x9", "--grey")
    return folder_of_images


def test_new_photographs_by_a_glob_with_some_that_cannot_be_used(tmp_path: Path, trees: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for i, path in enumerate(sorted(trees.rglob("*.png"))):
        Image.open(path).resize((40, 30)).save(new / f"{i:02d}.png")
    (new / "05.png").write_bytes(b"")
    (new / "note.png").write_text("not an image")
    words = ["--model", str(tmp_path / "model"), "--data", f"{new}/*.png"]
    words += ["--format", "csv", "--top", "2", "--scores"]
    metrics = run_main(predict.main, tmp_path / "p", *words)
    assert metrics["images"] == {"predicted": 59, "unusable": 2, "labelled": 0, "ignored": 0}
    assert metrics["accuracy"] is None
    assert not (tmp_path / "p" / "predictions").exists()
    with (tmp_path / "p" / "predictions.csv").open(newline="") as file:
        rows = {row["Id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 61
    assert set(rows["00.png"]) == {"Id", "Predicted", "Score", "Predicted2", "Score2", "Error"}
    names = sorted(path.parent.name for path in trees.rglob("*.png"))
    for i, name in enumerate(names):
        if i != 5:
            assert rows[f"{i:02d}.png"]["Predicted"] == name
            assert float(rows[f"{i:02d}.png"]["Score"]) >= float(rows[f"{i:02d}.png"]["Score2"])
            assert rows[f"{i:02d}.png"]["Error"] == ""
    assert rows["note.png"]["Predicted"] == ""
    assert rows["note.png"]["Error"] == "not a PNG, JPEG, BMP, TIFF or WebP image"
    page = (tmp_path / "p" / "report.html").read_text()
    assert "61 predictions" in page
    assert "2 images could not be used" in page


def test_images_of_a_glob_are_scored_against_the_folders_that_are_classes_of_the_model(
    tmp_path: Path, trees: Path
) -> None:
    (trees / "dogwood").mkdir()
    (trees / "cedar" / "00.png").rename(trees / "dogwood" / "00.png")
    words = ["--model", str(tmp_path / "model"), "--data", f"{trees}/*/*.png"]
    metrics = run_main(predict.main, tmp_path / "p", *words)
    assert metrics["images"] == {"predicted": 60, "unusable": 0, "labelled": 59, "ignored": 0}
    assert metrics["accuracy"] == 1.0
    assert "Confusion matrix" in (tmp_path / "p" / "report.html").read_text()


def test_images_that_do_not_fit_the_model_are_refused(tmp_path: Path, trees: Path, digits_model: Path) -> None:
    def refused(message: str, *words: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            predict.main([*words, "--out", str(tmp_path / "p"), "--quiet"])
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "p").exists()
        assert not list(tmp_path.glob(".run-*"))

    ingest.main(["digits", str(tmp_path / "t"), "--size", "8x9", "--binarize", "0.5", "--quiet"])
    ingest.main([f"folder:{trees}", str(tmp_path / "trees"), "--size", "4x4", "--quiet"])
    model, other = str(tmp_path / "model"), str(digits_model)
    refused("images of 4×4×3, and the model is for 8×8×1", "--model", other, "--data", f"parquet:{tmp_path}/trees")
    refused(
        "8x9 binarized at 0.5, and the model's were 8x9 grey", "--model", model, "--data", f"parquet:{tmp_path}/t"
    )
    refused("no ridge model", "--model", str(trees), "--data", "digits")
    refused("no file matches", "--model", model, "--data", f"{trees}/nothing/*")
    refused("has no splits; leave it out", "--model", model, "--data", f"folder:{trees}", "--split", "test")
    (tmp_path / "no-table").mkdir()
    refused(r"no dataset\.json there", "--model", model, "--data", f"parquet:{tmp_path}/no-table")


def test_the_command_as_a_user_types_it(tmp_path: Path, digits_model: Path) -> None:
    words = ["--model", digits_model, "--data", "digits", "--format", "csv", "--out", "p"]
    done = command("spark-submit", ROOT / "spark_jobs" / "predict.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/p/predictions.csv: 1,797 rows, 0 of them errors"
    assert lines[-1] == f"report: {tmp_path}/p/report.html"
    assert (tmp_path / "p" / "predictions.csv").read_text().startswith("Id,Predicted\n")
    assert json.loads((tmp_path / "p" / "metrics.json").read_text()) == metrics_of(tmp_path / "p")
    again = command("spark-submit", ROOT / "spark_jobs" / "predict.py", *words, cwd=tmp_path)
    assert again.returncode == 2
    assert "exists and is not an empty folder" in again.stderr
