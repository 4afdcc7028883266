"""RidgeModel: a fitted classifier that can be scored, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from common.arrays import Features, Floats, Labels, Pixels
from common.atomic import write_atomically
from common.data.catalogue import Classes
from common.data.decode import PixelFormat
from common.errors import InputError, UnusableImagesError
from common.features.feature_map import BATCH_ROWS, FeatureMap, FieldsOnly
from common.features.pixels import PIXELS
from common.features.registry import saved_arrays, saved_map
from common.features.stored import StoredFeatures, stored_shape
from common.ridge.path import RidgePath, score_rows

FORMAT = "one-vs-all ridge, version 1"

ARRAYS, DESCRIPTION = "model.npz", "model.json"
"""The files of a model in a run folder: the arrays, and everything else."""


def is_model(folder: Path) -> bool:
    """Return True if a folder holds a ridge model, or a part of one."""
    return any((folder / name).exists() for name in (ARRAYS, DESCRIPTION))


@dataclass(frozen=True)
class RidgeModel(FieldsOnly):
    """A one-vs-all ridge classifier at one λ.

    Attributes:
        weights: float64 (d, n_classes), for features in [0, 1].
        intercept: float64 (n_classes,).
        class_names: one name per class.
        shape: (height, width, channels) of the images.
        pixel_format: what files are decoded into.
        lambda_: λ, for features in [0, 1].
        penalty: "sum", "mean" or "scaled".
        features: computes the features of images.
        class_ids: the source's own identifiers of the classes; None if those are the names.
    """

    weights: Floats
    intercept: Floats
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    lambda_: float
    penalty: str
    features: FeatureMap = PIXELS
    class_ids: tuple[str, ...] | None = None

    @property
    def classes(self) -> Classes:
        """Names and ids of the classes."""
        return Classes(self.class_names, self.class_ids)

    @cached_property
    def path(self) -> RidgePath:
        """The model as a path of length one."""
        return RidgePath(self.weights[None], self.intercept[None])

    @cached_property
    def digest(self) -> str:
        """A fingerprint, SHA-256 of all that `save` writes: equal if and only if the models are."""
        digest = hashlib.sha256(json.dumps(self._described(), sort_keys=True).encode())
        for array in (self.weights, self.intercept):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def of_stored(self, features: StoredFeatures) -> RidgeModel:
        """Return the model that scores stored features in the place of images."""
        return replace(self, features=features, shape=stored_shape(len(self.weights)))

    def score_blocks(self, pixels: Pixels) -> Iterator[tuple[slice, Floats]]:
        """Score images, uint8 (n, height, width, channels), a block at a time.

        Yields:
            positions of images, and their scores, float64 (rows, n_classes).

        Raises:
            UnusableImagesError: the features of some images cannot be computed.
        """
        rows = score_rows(len(self.class_names))
        for start in range(0, len(pixels), rows):
            block = slice(start, min(start + rows, len(pixels)))
            yield block, self.path.scores(self._features_of(pixels, block))[:, 0]

    def _features_of(self, pixels: Pixels, rows: slice) -> Features:
        """Compute the features of some images, uint8 (m, d); errors count positions among all images."""
        try:
            return self.features(pixels[rows])
        except UnusableImagesError as error:
            raise error.moved(rows.start) from None

    def predict(self, pixels: Pixels) -> Labels:
        """Return the class with the highest score of each image, int64 (n,)."""
        return self.best_classes(pixels)[0]

    def best_classes(self, pixels: Pixels) -> tuple[Labels, Floats]:
        """Return the class with the highest score of each image, int64 (n,), and its margin, float64 (n,).

        The margin is the highest score minus the next, to the precision of float32.

        Raises:
            UnusableImagesError: the features of some images cannot be computed.
        """
        classes, margins = np.empty(len(pixels), np.int64), np.empty(len(pixels))
        for start in range(0, len(pixels), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            best, margin = self.path.best_classes(self._features_of(pixels, rows))
            classes[rows], margins[rows] = best[:, 0], margin[:, 0]
        return classes, margins

    def save(self, folder: Path) -> None:
        """Write model.npz (the arrays) and model.json (everything else) into `folder`."""
        with write_atomically(folder / ARRAYS) as file:
            arrays = saved_arrays(self.features)
            np.savez(file, weights=self.weights, intercept=self.intercept, **arrays)  # type: ignore[arg-type]
        with write_atomically(folder / DESCRIPTION) as file:
            file.write(json.dumps(self._described(), indent=2, ensure_ascii=False).encode())

    def _described(self) -> dict[str, Any]:
        """Return everything but the arrays, as JSON."""
        return {
            "format": FORMAT,
            "class_names": self.class_names,
            **({"class_ids": self.class_ids} if self.class_ids else {}),
            "shape": self.shape,
            "pixel_format": self.pixel_format.described(),
            "lambda_": self.lambda_,
            "penalty": self.penalty,
            "features": self.features.describe(),
        }

    @classmethod
    def load(cls, folder: Path) -> RidgeModel:
        """Read what `save` wrote, also by versions that knew no features but pixels.

        Raises:
            InputError: the files are missing, damaged, or do not belong together.
        """
        if (folder / "last.pt").exists() and not (folder / DESCRIPTION).exists():
            raise InputError(f"{folder}: the run of a network; mpi_jobs/predict_cnn.py predicts by those")
        try:
            described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
                weights, intercept = arrays["weights"], arrays["intercept"]
                features = saved_map(described["features"], arrays) if "features" in described else PIXELS
            if described["format"] != FORMAT:
                raise InputError(f"{folder / DESCRIPTION}: format {described['format']!r}, not {FORMAT!r}")
            model = cls(
                weights=weights,
                intercept=intercept,
                class_names=tuple(map(str, described["class_names"])),
                shape=tuple(described["shape"]),
                pixel_format=PixelFormat.of(described["pixel_format"]),
                lambda_=described["lambda_"],
                penalty=described["penalty"],
                features=features,
                class_ids=tuple(described["class_ids"]) if "class_ids" in described else None,
            )
            n_features = model.features.n_features(model.shape)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            reason = f"{DESCRIPTION} or {ARRAYS} is missing or damaged: {error}"
            raise InputError(f"{folder}: no ridge model can be read there ({reason}); fit it again") from error
        if not (np.isfinite(weights).all() and np.isfinite(intercept).all()):
            raise InputError(f"{folder / ARRAYS}: weights that are not finite; fit the model again")
        if weights.shape != (n_features, len(model.class_names)):
            raise InputError(f"{folder}: weights {weights.shape} do not fit the classes and shape of model.json")
        return model
