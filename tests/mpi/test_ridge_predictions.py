"""Predictions by a ridge model in a pipeline, against the model in one process."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from mpi4py import MPI

from common.data.decode import PixelFormat, decode
from common.data.measuring import DECODING
from common.errors import InputError
from common.features.chain import Chain
from common.features.pixels import PIXELS
from common.features.random_layer import RandomRecipe
from common.predict.predictions import RowFormat
from common.ridge.model import RidgeModel
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.pipeline.prediction_run import PredictionRun
from mpi_jobs.pipeline.profile import Profile
from mpi_jobs.pipeline.profile_run import ProfileRun
from mpi_jobs.pipeline.ridge_model import RidgeScorer
from tests.support.images import CLASSES, write_images

WORLD = World(MPI.COMM_WORLD)
FORMAT = PixelFormat((9, 8), grey=True)
IDS = ("7", "30", "100")
DAMAGED = "beech/07b.png"


class Made(NamedTuple):
    """Images and a ridge model, which rank 0 has made and all ranks see.

    Attributes:
        folder: with images/ and model/.
        scores: by name and in order, the model's scores of each image that can be decoded, float64 (n_classes,).
    """

    folder: Path
    scores: dict[str, np.ndarray]


def make(folder: Path) -> Made:
    """Make images, of which one is damaged, and a model with a feature map that has learnt from them."""
    images = write_images(folder / "images")
    paths = sorted(images.rglob("*.png"))
    pixels = np.stack([decode(path.read_bytes(), FORMAT) for path in paths])
    (images / DAMAGED).write_bytes(paths[0].read_bytes()[:60])
    rng = np.random.default_rng(6)
    features = Chain(PIXELS, RandomRecipe(30).learn(PIXELS(pixels), np.arange(len(paths)) // 20, 1))
    weights, intercept = rng.normal(size=(30, 3)), rng.normal(size=3)
    model = RidgeModel(weights, intercept, CLASSES, (9, 8, 1), FORMAT, 1.0, "sum", features, IDS)
    (folder / "model").mkdir()
    model.save(folder / "model")
    scores = next(scores for _, scores in model.score_blocks(pixels))
    np.testing.assert_allclose(scores, features(pixels) / 255 @ weights + intercept, rtol=1e-12)
    names = [path.relative_to(images).as_posix() for path in paths]
    return Made(folder, dict(zip(names, scores, strict=True)))


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    found = WORLD.at_root(lambda: make(Path(tempfile.mkdtemp())))
    yield found
    WORLD.meet()
    if WORLD.is_root:
        shutil.rmtree(found.folder)


def what(made: Made) -> list[str]:
    return ["--model", str(made.folder / "model"), "--data", f"folder:{made.folder / 'images'}"]


def predict(*flags: str) -> None:
    run = PredictionRun(WORLD, flags)
    run.predict()
    run.finish()
    WORLD.meet()


def metrics_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "metrics.json").read_text())
    return found


def test_scores_are_the_models_to_the_last_bit_in_a_layout_by_profile(made: Made) -> None:
    profiled, out = (made.folder / f"{name}-{WORLD.size}" for name in ("profile", "parquet"))
    run = ProfileRun(WORLD, [*what(made), "--seconds", "0.1", "--out", str(profiled), "--batch", "8"])
    run.finish(run.measure())
    WORLD.meet()
    record = json.loads((profiled / "profile.json").read_text())
    assert list(record["ways"]) == ["plain"]
    profile = Profile.load(profiled / "profile.json", "plain")
    assert profile.model == "ridge on 30 features (pixels+random)"
    assert profile.predicting == ("features", "score")
    assert all(profile.seconds[step] > 0 for step in (*DECODING[1:], *profile.predicting))
    flags = ["--top", "2", "--scores", "--format", "parquet", "--batch", "5"]
    predict(*what(made), *flags, "--out", str(out), "--profile", str(profiled / "profile.json"))
    found = pq.read_table(out / "predictions.parquet").to_pydict()
    assert found["name"] == sorted([*made.scores, DAMAGED])
    for row, name in enumerate(found["name"]):
        if name == DAMAGED:
            assert found["predicted"][row] is None
            assert found["error"][row]
            continue
        best = np.argsort(-made.scores[name])[:2]
        assert [found["predicted"][row], found["predicted_2"][row]] == [IDS[c] for c in best]
        assert [found["score"][row], found["score_2"][row]] == made.scores[name][best].tolist()
    metrics = metrics_of(out)
    assert metrics["profile"] is not None
    assert (metrics["n_features"], metrics["lambda"], metrics["device"]) == (30, 1.0, "cpu")
    right = [CLASSES[int(scores.argmax())] == name.split("/")[0] for name, scores in made.scores.items()]
    assert metrics["accuracy"] == pytest.approx(np.mean(right))


def test_what_a_kill_left_is_completed_to_the_same_with_all_digits(made: Made) -> None:
    whole, cut = (made.folder / f"{name}-{WORLD.size}" for name in ("whole", "cut"))
    predict(*what(made), "--scores", "--out", str(whole))
    if WORLD.is_root:
        shutil.copytree(whole, cut)
        data = (whole / "predictions.csv").read_bytes()
        (cut / "predictions.csv").write_bytes(data[: len(data) // 2])
    WORLD.meet()
    predict("--resume", str(cut))
    assert (cut / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    with (cut / "predictions.csv").open(newline="") as file:
        rows = {name: (predicted, score) for name, predicted, score in list(csv.reader(file))[1:]}
    expected = {name: (IDS[int(s.argmax())], repr(float(s.max()))) for name, s in made.scores.items()}
    assert rows == expected | {DAMAGED: ("", "")}


def test_images_without_colour_are_grey_colours() -> None:
    weights = np.random.default_rng(1).normal(size=(12, 3))
    model = RidgeModel(weights, np.zeros(3), CLASSES, (2, 2, 3), PixelFormat((2, 2)), 1.0, "sum", PIXELS)
    grey = np.random.default_rng(2).integers(0, 256, (5, 2, 2, 1), np.uint8)
    best = RidgeScorer(model, 1).best_classes(grey, RowFormat())
    assert best.top[:, 0].tolist() == model.predict(np.repeat(grey, 3, axis=3)).tolist()


def test_wrong_input_is_told_on_every_rank(made: Made) -> None:
    damaged, empty = (made.folder / f"{name}-{WORLD.size}" for name in ("damaged", "empty"))
    if WORLD.is_root:
        shutil.copytree(made.folder / "model", damaged)
        (damaged / "model.npz").write_bytes(b"PK")
        empty.mkdir()
    WORLD.meet()
    data = what(made)[2:]
    wrong = [
        ([*what(made), "--fast"], "--fast: for networks"),
        ([*what(made), "--device", "cuda"], "--device cuda: .* is a ridge model"),
        (["--model", str(damaged), *data], "no ridge model can be read there"),
        (["--model", str(empty), *data], "neither best.pt, .* nor model.json"),
    ]
    for flags, message in wrong:
        with pytest.raises(AgreedError, match=message) as error:
            PredictionRun(WORLD, flags)
        assert error.value.exit_code == InputError.exit_code
