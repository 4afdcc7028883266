"""Feature maps: the same bytes alone and in any batch, equal to a reference in whole numbers, saved and loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.arrays import Features, Pixels
from common.blas import blas_threads, limit_blas
from common.data.images import Sample
from common.data.labelled import open_splits
from common.errors import InputError, UnusableImagesError
from common.features import dense, patches
from common.features.chain import Chain
from common.features.feature_map import FeatureMap, Shape, usable_features
from common.features.fourier import Fourier
from common.features.generated import generated_images
from common.features.joined import Joined
from common.features.landmarks import ENTRIES, Landmarks
from common.features.patches import SIDE, Patches, cell_starts
from common.features.pixels import PIXELS, RawPixels
from common.features.random_layer import RandomLayer, RandomRecipe
from common.features.registry import feature_map_of
from common.features.spec import FeatureSpec
from common.report.features import filters_of, in_words
from common.ridge.fit import Problem
from common.ridge.model import RidgeModel
from spark_jobs import serial
from tests.support.jobs import command
from tests.support.places import ROOT

RNG = np.random.default_rng(11)
GREY = RNG.integers(0, 256, (300, 12, 10, 1), np.uint8)
WHITE = np.full((10, 14, 14, 3), 255, np.uint8)
COLOUR = np.concatenate([RNG.integers(0, 256, (290, 14, 14, 3), np.uint8), WHITE])
MAPS = [
    ("patches:6", GREY),
    ("patches:5,cells=3,mirror", COLOUR),
    ("landmarks:40", GREY),
    ("patches:4+landmarks:50", GREY),
    ("fourier:60", GREY),
    ("fourier:30,sigma=900", COLOUR),
    ("random:40", GREY),
    ("random:40,signs", COLOUR),
    ("patches:4,mirror+random:50,differences+landmarks:30", COLOUR),
    ("patches:4,blind+random:30", GREY),
    ("patches:4,mirror++patches:3+random:40++fourier:20", COLOUR),
]


@dataclass
class Sampled:
    images: Pixels

    @property
    def shape(self) -> Shape:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def n_sampled(self) -> int:
        return len(self.images)

    def sample(self, n: int, seed: int) -> Sample:
        return Sample(self.images[:n], np.arange(len(self.images[:n])) % 3)


def learnt(spec: str, sample: Pixels, seed: int = 0) -> FeatureMap:
    return FeatureSpec.parse(spec).learn(Sampled(sample), seed)  # type: ignore[arg-type]


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
    for name, value in (("BATCH_ROWS", 25), ("PIECE_ROWS", 10), ("BLOCK", 16)):
        monkeypatch.setattr(dense, name, value)
    features = learnt(spec, images)
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
    assert isinstance(landmarks, Landmarks)
    found = landmarks(rows)
    distances = ((rows[:, None].astype(np.int64) - landmarks.rows[None].astype(np.int64)) ** 2).sum(axis=2)
    assert np.array_equal(found, landmarks.table[np.minimum(distances >> landmarks.shift, ENTRIES - 1)])
    assert found[distances == 0].min() == 255
    assert found[0, landmarks.rows[:, 0].argmax()] < 10
    assert (np.diff(landmarks.table.astype(int)) <= 0).all()


def products_of_whole_numbers(x: Features, weights: NDArray[np.int8]) -> NDArray[Any]:
    z = x.astype(int) - 128
    return np.array(
        [[sum(a * b for a, b in zip(row, w, strict=True)) for w in weights.tolist()] for row in z.tolist()]
    )


@pytest.mark.parametrize("width", [7, 1500])
def test_random_layers_are_those_of_whole_numbers(width: int) -> None:
    x = RNG.integers(0, 256, (50, width), np.uint8)
    features = learnt("random:6", x.reshape(50, 1, width, 1))
    assert isinstance(features, Chain)
    layer = features.then
    assert isinstance(layer, RandomLayer)
    above = np.maximum(products_of_whole_numbers(x[:9], layer.weights) - layer.offsets, 0)
    expected = np.minimum(above.astype(np.float32) * layer.factors, 255).astype(np.uint8)
    assert np.array_equal(layer(x[:9]), expected)
    assert 0.3 < (layer(x) > 0).mean() < 0.7


@pytest.mark.parametrize("width", [9, 1500])
def test_fourier_features_are_those_of_whole_numbers_and_of_the_cosine(width: int) -> None:
    x = RNG.integers(0, 256, (40, width), np.uint8)
    features = learnt("fourier:8", x.reshape(40, 1, width, 1))
    assert isinstance(features, Chain)
    layer = features.then
    assert isinstance(layer, Fourier)
    products = products_of_whole_numbers(x, layer.weights)
    phases = ((products * layer.factor >> 20) + layer.offsets) % 65536
    assert np.array_equal(layer(x), layer.table[phases])
    exact = 127.5 + 127.5 * np.cos(2 * np.pi * (products * (layer.factor / 2**20) + layer.offsets) / 65536)
    assert np.abs(layer(x) - exact).max() < 0.6


def test_products_of_fourier_features_approximate_the_kernel() -> None:
    x = RNG.integers(100, 156, (30, 20), np.uint8)
    sigma = 120.0
    found = learnt(f"fourier:20000,sigma={sigma}", x.reshape(30, 4, 5, 1))(x.reshape(30, 4, 5, 1))
    cosines = (found.astype(float) - 127.5) / 127.5
    distances = ((x[:, None].astype(float) - x[None]) ** 2).sum(axis=2)
    assert np.abs(2 * cosines @ cosines.T / 20000 - np.exp(-distances / (2 * sigma**2))).max() < 0.05


def test_maps_side_by_side_have_the_features_of_each() -> None:
    features = learnt("patches:4++pixels++patches:4", COLOUR)
    assert isinstance(features, Joined)
    first, pixels, second = features.maps
    assert features.n_features(COLOUR.shape[1:]) == 32 + 588 + 32
    assert np.array_equal(features(COLOUR), np.hstack([first(COLOUR), pixels(COLOUR), second(COLOUR)]))
    assert first.digest == learnt("patches:4", COLOUR).digest
    assert not np.array_equal(first(COLOUR), second(COLOUR))
    turned = Joined(features.maps[::-1])
    assert turned.digest != features.digest
    assert in_words(turned, (14, 14, 3))[1] == "beside these, the 588 values of the pixels"
    assert np.array_equal(filters_of(Joined((pixels, second))), second.filters)  # type: ignore[attr-defined]
    assert not len(filters_of(Joined((pixels, pixels))))


class Refusing(RawPixels):
    """Pixels of images whose first one is not of a certain value."""

    def __init__(self, refused: int) -> None:
        self.refused = refused

    def __call__(self, pixels: Pixels) -> Features:
        rows = np.flatnonzero(pixels[:, 0, 0, 0] == self.refused).tolist()
        if rows:
            raise UnusableImagesError(rows, f"no {self.refused}")
        return PIXELS(pixels)


def test_images_that_one_of_the_maps_cannot_use_are_all_told_at_once() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    joined = Joined((Refusing(4), PIXELS, Refusing(1)))
    with pytest.raises(UnusableImagesError, match="no 4; no 1") as raised:
        joined(images)
    assert raised.value.rows == [1, 4]
    usable = usable_features(joined, images)
    assert usable.kept.tolist() == [0, 2, 3, 5]
    assert usable.x.tolist() == [[n] * 3 for n in (0, 2, 3, 5)]


def test_differences_are_of_two_classes() -> None:
    layer = RandomRecipe(30, "differences").learn(
        np.repeat(np.array([[9, 9], [30, 7]], np.uint8), 5, 0), np.repeat([0, 1], 5), 0
    )
    assert {tuple(row) for row in np.abs(layer.weights).tolist()} == {(127, 12)}
    with pytest.raises(ValueError, match="differences need training images of two classes"):
        RandomRecipe(3, "differences").learn(np.zeros((5, 2), np.uint8), np.zeros(5, np.int64), 0)


@pytest.mark.parametrize(
    "spec",
    ["patches:4,blind", "patches:4,blind,mirror+random:9,signs", "fourier:20,blind", "fourier:20,sigma=500"],
)
def test_a_blind_map_owes_nothing_to_the_images(spec: str) -> None:
    first, second = learnt(spec, GREY), learnt(spec, 255 - GREY)
    assert first.digest == second.digest
    assert len(np.unique(first(GREY))) > 20
    seen = spec.replace(",blind", "").replace(",sigma=500", "")
    assert learnt(seen, GREY).digest != learnt(seen, 255 - GREY // 3).digest


def test_generated_images_differ_and_use_their_range() -> None:
    images = generated_images((9, 12, 3), 50, 0)
    assert images.shape == (50, 9, 12, 3)
    assert len(np.unique(images, axis=0)) == 50
    assert images.min() < 40
    assert images.max() > 215
    neighbours = np.corrcoef(images[:, :, 1:].ravel(), images[:, :, :-1].ravel())[0, 1]
    assert 0.5 < neighbours < 0.99
    assert np.array_equal(images, generated_images((9, 12, 3), 50, 0))
    assert not np.array_equal(images, generated_images((9, 12, 3), 50, 1))


@pytest.mark.parametrize(
    ("shape", "n", "spec"),
    [
        ((28, 28, 1), 60_000, "patches:64+landmarks:4096"),
        ((8, 8, 1), 1_437, "patches:64+landmarks:1024"),
        ((28, 28, 1), 100, "patches:32"),
        ((32, 32, 3), 50_000, "patches:512,mirror"),
        ((48, 48, 3), 1_320, "patches:128,cells=6+landmarks:1024"),
        ((48, 48, 3), 150, "patches:32"),
        ((64, 64, 3), 12_000, "patches:512,mirror"),
        ((4, 9, 1), 60_000, "pixels"),
    ],
)
def test_auto_chooses_by_the_images(shape: tuple[int, int, int], n: int, spec: str) -> None:
    facts = Sampled(np.broadcast_to(np.uint8(0), (n, *shape)))
    chosen, reason = FeatureSpec.parse("auto").for_images(facts)  # type: ignore[arg-type]
    assert chosen == FeatureSpec.parse(spec)
    assert f"{n:,} " in reason
    assert FeatureSpec.parse("pixels").for_images(facts) == (FeatureSpec.parse("pixels"), "")  # type: ignore[arg-type]


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
    changed.view(np.uint8).flat[0] ^= 1
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
        ("", "is none of pixels, patches:N"),
        ("from:", "is none of"),
        ("patch:3", "is none of"),
        ("patches", "is none of"),
        ("pixels:3", "is none of"),
        ("patches:0", "is not from 1 to"),
        ("patches:99999999", "is not from 1 to"),
        ("landmarks:3+patches:3", "patches takes images, and so it comes first"),
        ("pixels+landmarks:3", "is none of"),
        ("patches:3+", "is none of"),
        ("patches:3,blind+landmarks:4", "landmarks and differences are images; leave out blind"),
        ("patches:3+random:4,blind", "blind goes with the first part of a chain"),
        ("patches:3,cells=2.5", "cells=2.5 of patches is not a whole number"),
        ("patches:3,mirror=2", "mirror of patches takes no value"),
        ("fourier:3,width=0", "width=0 of fourier is not a number from 0.001 to 1000"),
        ("fourier:3,width=1.1.1", "width=1.1.1 of fourier is not a number"),
        ("fourier:3,width=1,sigma=2", "takes width or sigma, not both"),
        ("random:3,signs,gaussian", "random takes one of"),
        ("patches:3,mirrors", "no option 'mirrors'"),
        ("patches:3,,mirror", "no option ''"),
        ("patches:3,cells", "cells= of patches is not a number"),
        ("patches:3,cells=2,cells=3", "cells of patches is given twice"),
        ("patches:3,blind,blind", "blind of patches is given twice"),
        ("patches:１", "is none of pixels"),
        ("landmarks:5,width=1e3", "width=1e3 of landmarks is not a number from 0.001 to 1000"),
        ("Patches:3", "is none of pixels"),
        (" patches:3", "is none of pixels"),
        ("patches:3,cells=0", "cells=0 of patches is not a number from 1 to 16"),
        ("landmarks:3,cells=2", "no option 'cells'"),
        ("patches:3++", "'' is none of pixels"),
        ("patches:3+++random:4", "'\\+random:4' is none of pixels"),
        ("patches:3++auto", "auto stands alone"),
        ("pixels++from:runs/a", "from:runs/a stands alone"),
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
        ("patches:60000", (9, 8, 8, 1), "5,880,000 features, of 131,071 allowed; use fewer"),
        ("pixels++patches:60000", (9, 8, 8, 1), "5,880,000 features, of 131,071 allowed; use fewer"),
        ("pixels++patches:3", (9, 4, 5, 3), "--features patches:3: patches of 6×6 do not fit images of 4×5"),
        ("patches:60000+landmarks:5", (9, 8, 8, 1), "5,880,000 features, of 131,071 allowed; use fewer"),
    ],
)
def test_maps_that_do_not_fit_the_images_are_told(spec: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        learnt(spec, np.zeros(shape, np.uint8))


def test_images_that_do_not_vary_have_no_filters() -> None:
    with pytest.raises(InputError, match="the training images do not vary, and so there are no filters to learn"):
        learnt("patches:4", np.full((30, 8, 8, 3), 7, np.uint8))


def test_filters_fit_their_channels_alone() -> None:
    with pytest.raises(ValueError, match="filters of 3 channels do not fit images of 1"):
        learnt("patches:4", COLOUR).n_features((14, 14, 1))
    with pytest.raises(ValueError, match="random takes 120 features; images of 12x9x1 have 108"):
        learnt("random:4", GREY).n_features((12, 9, 1))


def test_landmarks_of_constant_images_do_no_harm() -> None:
    features = learnt("patches:3+landmarks:20", np.full((30, 8, 8, 1), 7, np.uint8))
    assert (features(np.full((2, 8, 8, 1), 7, np.uint8)) == 255).all()
    assert isinstance(features, Chain)
    assert isinstance(features.then, Landmarks)


LEARN = """
import sys
import numpy as np
from common.features.patches import PatchesRecipe
images = np.sort(np.random.default_rng(0).integers(0, 256, (400, *map(int, sys.argv[1:])), np.uint8), axis=2)
print(PatchesRecipe(16).learn(images, 0).digest)
"""


@pytest.mark.parametrize(
    ("shape", "digest"), [(("28", "28", "1"), "4c1615e3dd40e958"), (("32", "32", "3"), "532868f62d3ca3bf")]
)
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell"])
def test_filters_are_the_same_on_every_processor(
    tmp_path: Path, shape: tuple[str, ...], digest: str, processor: str
) -> None:
    variables = {"OPENBLAS_CORETYPE": processor, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = command("python", "-c", LEARN, *shape, cwd=tmp_path, **variables)
    assert done.stdout.startswith(digest), done.stderr


def test_filters_of_images_that_hardly_vary_are_those_of_what_does(recwarn: pytest.WarningsRecorder) -> None:
    images = np.full((40, 20, 20, 1), 128, np.uint8)
    images[0, 6:12, 6:12, 0] = np.arange(0, 252, 7).reshape(6, 6)
    found = learnt("patches:6", images)
    assert isinstance(found, Patches)
    assert found.filters.any(axis=1).all()
    assert not recwarn.list
