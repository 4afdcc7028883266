"""Feature maps: the same bytes alone and in any batch, equal to a reference in whole numbers, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.arrays import Features, Pixels
from common.blas import blas_threads, limit_blas
from common.data.labelled import open_splits
from common.errors import InputError
from common.features import patches
from common.features.chain import Chain
from common.features.feature_map import FeatureMap
from common.features.landmarks import ENTRIES, Landmarks
from common.features.patches import SIDE, Patches, cell_starts
from common.features.registry import feature_map_of
from common.features.spec import FeatureSpec
from common.ridge.fit import Problem
from common.ridge.model import RidgeModel
from spark_jobs import serial

RNG = np.random.default_rng(11)
GREY = RNG.integers(0, 256, (300, 12, 10, 1), np.uint8)
WHITE = np.full((10, 14, 14, 3), 255, np.uint8)
COLOUR = np.concatenate([RNG.integers(0, 256, (290, 14, 14, 3), np.uint8), WHITE])
MAPS = [
    ("patches:6", GREY),
    ("patches:5,cells=3,mirror", COLOUR),
    ("landmarks:40", GREY),
    ("patches:4+landmarks:50", GREY),
]


def learnt(spec: str, sample: Pixels, seed: int = 0) -> FeatureMap:
    class Sampled:
        def sample(self, n: int, seed: int) -> Pixels:
            return sample[:n]

    return FeatureSpec.parse(spec).learn(Sampled(), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("spec", "images"), MAPS)
def test_features_are_the_same_bytes_alone_and_in_any_batch(
    monkeypatch: pytest.MonkeyPatch, spec: str, images: Pixels
) -> None:
    features = learnt(spec, images)
    whole = features(images)
    assert whole.dtype == np.uint8
    assert whole.shape == (len(images), features.n_features(images.shape[1:]))
    assert len(np.unique(whole)) > 20
    for size in (1, 7, 256):
        parts = [features(images[start : start + size]) for start in range(0, 60, size)]
        assert np.array_equal(np.concatenate(parts)[:60], whole[:60])
    monkeypatch.setattr(patches, "BATCH_VALUES", 10_000)
    before = blas_threads()
    for threads in (1, 2):
        limit_blas(threads)
        assert np.array_equal(features(images), whole)
    limit_blas(before)
    assert features(images[:0]).shape == (0, whole.shape[1])


def reference(features: Patches, images: Pixels) -> Features:
    """Compute pooled responses with Python's whole numbers, patch by patch."""
    padded = np.pad(images, ((0, 0), (features.pad,) * 2, (features.pad,) * 2, (0, 0)))
    rows, columns = (length - SIDE + 1 for length in padded.shape[1:3])
    (tops, height), (lefts, width) = cell_starts(rows, features.cells), cell_starts(columns, features.cells)
    n_filters = len(features.filters)
    out = np.zeros((len(images), features.cells**2, 2 * n_filters), object)
    for image in range(len(images)):
        for row in range(rows):
            for column in range(columns):
                patch = padded[image, row : row + SIDE, column : column + SIDE].transpose(2, 0, 1).ravel()
                d, total, squares = len(patch), int(patch.sum(dtype=int)), int((patch.astype(int) ** 2).sum())
                inverse = np.float64(32 * d) / np.sqrt(np.float64(d * squares - total**2 + d * d * features.floor))
                z = patch.astype(np.float32) * np.float32(inverse) - np.float32(total * inverse / d)
                z = np.clip(np.rint(z), -127, 127).astype(int)
                response = features.filters.astype(int) @ z - features.offsets
                low, high = features.thresholds.astype(int), features.ceilings.astype(int)
                both = np.concatenate([np.clip(response, low, high) - low, np.clip(-response, low, high) - low])
                for i, top in enumerate(tops):
                    for j, left in enumerate(lefts):
                        if top <= row < top + height and left <= column < left + width:
                            out[image, i * features.cells + j] += both
    return np.minimum(out * 255 // features.scales, 255).astype(np.uint8).reshape(len(images), -1)


@pytest.mark.parametrize(("spec", "images"), [("patches:3", GREY), ("patches:3,cells=2", COLOUR)])
def test_patches_are_those_of_whole_numbers(spec: str, images: Pixels) -> None:
    features = learnt(spec, images)
    assert isinstance(features, Patches)
    some = images[[0, 5, -1]]
    assert np.array_equal(features(some), reference(features, some))


def test_a_mirrored_image_has_the_same_features_if_asked_for() -> None:
    features = learnt("patches:4,mirror", COLOUR)
    assert np.array_equal(features(COLOUR), features(COLOUR[:, :, ::-1]))
    plain = learnt("patches:4", COLOUR)
    assert not np.array_equal(plain(COLOUR), plain(COLOUR[:, :, ::-1]))


def test_landmarks_are_a_gaussian_kernel_in_eight_bits() -> None:
    rows = RNG.integers(0, 256, (80, 3000), np.uint8)
    rows[0], rows[1] = 0, 255  # as far apart as can be
    features = learnt("landmarks:80", rows.reshape(80, 50, 60, 1))
    assert isinstance(features, Chain)
    landmarks = features.then
    found = landmarks(rows)
    distances = ((rows[:, None].astype(np.int64) - landmarks.rows[None].astype(np.int64)) ** 2).sum(axis=2)
    assert np.array_equal(found, landmarks.table[np.minimum(distances >> landmarks.shift, ENTRIES - 1)])
    assert found[distances == 0].min() == 255
    assert found[0, landmarks.rows[:, 0].argmax()] < 10
    assert (np.diff(landmarks.table.astype(int)) <= 0).all()


@pytest.mark.parametrize(("spec", "images"), MAPS)
def test_a_map_is_rebuilt_from_what_it_describes_and_no_other(spec: str, images: Pixels) -> None:
    features = learnt(spec, images)
    described, arrays = json.loads(json.dumps(features.describe())), dict(features.arrays())
    again = feature_map_of(described, arrays)
    assert again.digest == features.digest
    assert np.array_equal(again(images), features(images))
    assert learnt(spec, images).digest == features.digest
    assert learnt(spec, images, seed=1).digest != features.digest
    name = sorted(arrays)[0]
    changed = arrays[name].copy()
    changed.flat[0] ^= 1
    with pytest.raises(ValueError, match="not those that were saved"):
        feature_map_of(described, arrays | {name: changed})
    with pytest.raises(KeyError):
        feature_map_of(described, {key: value for key, value in arrays.items() if key != name})


def test_a_model_keeps_its_map(tmp_path: Path) -> None:
    train, test = open_splits("digits")
    features = FeatureSpec.parse("patches:8+landmarks:200").learn(train, 0)
    fitted = serial.fit(Problem(train, features=features)).model
    fitted.save(tmp_path)
    loaded = RidgeModel.load(tmp_path)
    images = test.load()
    assert np.array_equal(loaded.predict(images.pixels), fitted.predict(images.pixels))
    assert (loaded.predict(images.pixels) == images.labels).mean() > 0.98
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    arrays["features.then.rows"][0, 0] ^= 1
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(InputError, match="not those that were saved"):
        RidgeModel.load(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "is none of pixels, patches:F"),
        ("from:", "is none of"),
        ("patch:3", "is none of"),
        ("patches", "is none of"),
        ("pixels:3", "is none of"),
        ("patches:0", "is not from 1 to"),
        ("patches:99999999", "is not from 1 to"),
        ("landmarks:3+patches:3", "is none of"),
        ("patches:3,mirrors", "no option mirrors"),
        ("patches:3,cells=0", "cells=0 is not a whole number from 1 to 16"),
        ("landmarks:3,cells=2", "no option cells"),
    ],
)
def test_what_is_no_spec_is_told(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureSpec.parse(spec)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("patches:3", (9, 4, 5, 3), "patches of 6×6 do not fit images of 4×5; use larger images"),
        ("landmarks:10", (9, 4, 5, 3), "9 training images are too few for as many landmarks; use landmarks:9"),
        ("patches:3", (0, 8, 8, 1), "no training image can be used"),
    ],
)
def test_maps_that_do_not_fit_the_images_are_told(spec: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        learnt(spec, np.zeros(shape, np.uint8))


def test_landmarks_of_constant_images_do_no_harm() -> None:
    features = learnt("patches:3+landmarks:20", np.full((30, 8, 8, 1), 7, np.uint8))
    assert (features(np.full((2, 8, 8, 1), 7, np.uint8)) == 255).all()
    assert isinstance(features, Chain)
    assert isinstance(features.then, Landmarks)
