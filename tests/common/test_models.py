"""Models in Python: the same classes and scores for files, arrays and Pillow's images, as the jobs predict."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.labelled import open_splits
from common.models import LoadedModel, load
from common.ridge.model import RidgeModel
from spark_jobs import serial
from tests.support.images import write_images
from tests.support.jobs import command, run_main
from tests.support.places import ROOT


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("models") / "images")


@pytest.fixture(scope="module")
def ridge(photographs: Path) -> Path:
    """A run on colour images of several sizes, resized, with learnt features."""
    out = photographs.parent / "ridge"
    run_main(serial.main, out, "--data", f"folder:{photographs}", "--size", "12x16", "--features", "patches:4")
    return out


def files(photographs: Path) -> list[Path]:
    return sorted(photographs.rglob("*.png"))


def test_files_arrays_and_pillows_images_have_the_same_scores(ridge: Path, photographs: Path) -> None:
    model, paths = load(ridge), files(photographs)
    assert model.class_names == RidgeModel.load(ridge).class_names
    scores = model.scores(paths)
    assert scores.shape == (len(paths), len(model.class_names))
    opened = [Image.open(path) for path in paths]
    assert np.array_equal(model.scores(opened), scores)
    assert np.array_equal(model.scores(np.asarray(image.convert("RGB")) for image in opened), scores)
    assert np.array_equal(model.scores(map(str, paths)), scores)
    for path, image, own in zip(paths, opened, scores, strict=True):  # alone, and not in a list
        for one in (path, image, np.asarray(image.convert("RGB"))):
            assert np.array_equal(model.scores(one), own[None])
    names = np.array(model.class_names)
    assert model.predict(paths).tolist() == names[scores.argmax(axis=1)].tolist()


def test_predictions_are_those_of_the_run(tmp_path: Path) -> None:
    metrics = run_main(serial.main, tmp_path / "run")
    model, (_, test) = load(tmp_path / "run"), open_splits("digits")
    images = test.load()
    found = model.predict(images.pixels)
    truth = np.array(model.class_names)[images.labels]
    assert (found == truth).mean() == metrics["test_accuracy"]
    grey = images.pixels[:, :, :, 0]
    assert np.array_equal(model.scores(grey), model.scores(images.pixels))
    assert np.array_equal(model.scores(list(grey)), model.scores(images.pixels))
    assert np.array_equal(model.scores(grey[0]), model.scores(images.pixels)[:1])
    assert model.predict([]).tolist() == []
    assert model.scores([]).shape == (0, 10)


@pytest.mark.slow
def test_networks_predict_as_predict_cnn_does(photographs: Path, tmp_path: Path) -> None:
    words = [sys.executable, ROOT / "mpi_jobs" / "train_cnn.py", "--data", f"folder:{photographs}"]
    flags = ["--image-size", "16", "--epochs", "2", "--quiet", "--out", tmp_path / "run"]
    trained = command(*words, *flags, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    job = [
        sys.executable,
        ROOT / "mpi_jobs" / "predict_cnn.py",
        "--model",
        tmp_path / "run",
        "--quiet",
        "--out",
        "p",
    ]
    done = command(*job, "--data", f"folder:{photographs}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p" / "predictions.csv").open() as file:
        predicted = {row["Id"]: row["Predicted"] for row in csv.DictReader(file)}
    model, paths = load(tmp_path / "run"), files(photographs)
    found = model.predict(paths)
    expected = [predicted[str(path.relative_to(photographs))] for path in paths]
    assert found.tolist() == expected
    checkpoint = load(tmp_path / "run" / "best.pt")
    assert np.array_equal(checkpoint.scores(paths), model.scores(paths))


@pytest.mark.slow
def test_the_tour_of_the_library_runs(tmp_path: Path) -> None:
    done = command(sys.executable, ROOT / "docs" / "notebook.py", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "equal weights: True\n" in done.stdout
    accuracies = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("test accuracy")]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.97


def test_what_cannot_be_used_is_named(ridge: Path, photographs: Path, tmp_path: Path) -> None:
    model, paths = load(ridge), files(photographs)
    (tmp_path / "cut.png").write_bytes(paths[0].read_bytes()[:50])
    for images, words in (
        ([paths[0], tmp_path / "cut.png"], "cut.png: "),
        ([tmp_path / "gone.png"], "gone.png: cannot be read"),
        ([np.zeros((4, 4)), np.zeros((4, 4))], "image 1: float64"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8)], r"image 2: uint8 \(4, 4, 2\)"),
        (np.zeros((2, 3, 4, 4, 3), np.uint8), r"image 1: uint8 \(3, 4, 4, 3\)"),
        ([None], "image 1: object"),
    ):
        with pytest.raises(ValueError, match=words):
            model.scores(images)
    plain = run_main(serial.main, tmp_path / "digits")
    with pytest.raises(ValueError, match=r"image 1: 9×8×1, and the model is for 8×8×1"):
        load(tmp_path / "digits").predict(np.zeros((9, 8), np.uint8))
    assert plain["shape"] == [8, 8, 1]


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=str(tmp_path)):
        load(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="no ridge model can be read there"):
        load(tmp_path)


def test_grey_images_suit_a_model_of_colour(ridge: Path) -> None:
    model: LoadedModel = load(ridge)
    grey = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    assert np.array_equal(model.scores(grey), model.scores(np.repeat(grey[:, :, None], 3, axis=2)))
