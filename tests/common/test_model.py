from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.data.decode import PixelFormat
from common.errors import InputError
from common.ridge.model import RidgeModel

RNG = np.random.default_rng(4)


def a_model() -> RidgeModel:
    pixel_format = PixelFormat((4, 3), grey=True, binarize=0.5)
    names = ("ash", "beech", "żółw")
    return RidgeModel(RNG.normal(size=(12, 3)), RNG.normal(size=3), names, (4, 3, 1), pixel_format, 4.5, "mean")


def test_a_saved_model_loads_as_it_was_and_predicts_the_same(tmp_path: Path) -> None:
    model = a_model()
    model.save(tmp_path)
    again = RidgeModel.load(tmp_path)
    assert np.array_equal(again.weights, model.weights)
    assert np.array_equal(again.intercept, model.intercept)
    assert (again.class_names, again.shape, again.pixel_format) == (
        model.class_names,
        (4, 3, 1),
        model.pixel_format,
    )
    assert (again.lambda_, again.penalty) == (4.5, "mean")
    pixels = RNG.integers(0, 256, (2000, 4, 3, 1), np.uint8)
    assert np.array_equal(model.predict(pixels), again.predict(pixels))
    assert not list(tmp_path.glob(".*"))


def _arrays_of_objects(folder: Path) -> None:
    np.savez(folder / "model.npz", weights=np.array([{}], dtype=object), intercept=np.zeros(3))


def _weights_that_are_no_numbers(folder: Path) -> None:
    model = RidgeModel.load(folder)
    model.weights[0, 0] = np.nan
    np.savez(folder / "model.npz", weights=model.weights, intercept=model.intercept)


def _other_classes(folder: Path) -> None:
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"class_names": ["a", "b"]}))


def _other_format(folder: Path) -> None:
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"format": "something else"}))


@pytest.mark.parametrize(
    "damage",
    [
        _arrays_of_objects,
        _weights_that_are_no_numbers,
        _other_classes,
        _other_format,
        lambda folder: (folder / "model.npz").unlink(),
        lambda folder: (folder / "model.json").write_text("{"),
        lambda folder: (folder / "model.npz").write_bytes((folder / "model.npz").read_bytes()[:100]),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path, damage) -> None:
    a_model().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)) as caught:
        RidgeModel.load(tmp_path)
    assert "\n" not in str(caught.value)
