"""FeatureMapTransformer: the feature maps of this project as a transformer of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from common.arrays import Features, Labels, Pixels
from common.data.images import Sample
from common.errors import InputError
from common.features.feature_map import BATCH_ROWS, FeatureMap, Shape
from common.features.spec import FeatureSpec
from common.run.features import feature_map, with_network


class FeatureMapTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A feature map, learnt from a sample of rows, that turns rows of numbers into features of 8 bits.

    Rows of uint8 are the pixels of images. Other numbers are first brought to 8 bits, from the smallest to the
    largest that `fit` has seen. The features of a row are the same bytes alone and in any batch.

    Args:
        features: the map, as `--features` names it: "patches:64", "random:2000", "patches:64+landmarks:4096", …
        shape: (height, width) or (height, width, channels) of the image that a row is; None if rows are no images,
            or have four dimensions.
        random_state: seed of all that is drawn, a whole number.

    Attributes:
        map_: the map, which `describe()` and `digest` tell from others.
        range_: the smallest and the largest number, None if rows were uint8.
        n_features_in_: the number of columns.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.pipeline import make_pipeline
        >>> from common.estimators import MomentsRidgeClassifierCV
        >>> X, y = load_digits(return_X_y=True)
        >>> model = make_pipeline(FeatureMapTransformer("random:500"), MomentsRidgeClassifierCV((1e4, 1e5)))
        >>> model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.9
        True
    """

    def __init__(
        self, features: str = "random:500", *, shape: Sequence[int] | None = None, random_state: int = 0
    ) -> None:
        self.features = features
        self.shape = shape
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the map.

        Args:
            X: rows (n, d), or images (n, height, width, channels).
            y: labels, which "random:N,differences" needs.

        Raises:
            ValueError: the map is unknown or does not fit the rows.
        """
        rows = validate_data(self, X, allow_nd=True, reset=True)
        labels = np.zeros(len(rows), np.int64) if y is None else np.unique(np.asarray(y), return_inverse=True)[1]
        if len(labels) != len(rows):
            raise ValueError(f"y has {len(labels)} labels, and X {len(rows)} rows")
        self.range_ = None if rows.dtype == np.uint8 else (float(rows.min()), float(rows.max()))
        self._shape = self._shape_of(rows)
        sampled = _Rows(self._pixels(rows), labels)
        try:
            spec = with_network(FeatureSpec.parse(self.features))
            self.map_: FeatureMap = feature_map(spec.for_images(sampled)[0], sampled, self.random_state)
        except InputError as error:
            raise ValueError(str(error)) from error
        self._n_features_out = self.map_.n_features(self._shape)
        return self

    def transform(self, X: ArrayLike) -> Features:
        """Return the features of rows: uint8 (n, n_features)."""
        check_is_fitted(self, "map_")
        rows = validate_data(self, X, allow_nd=True, reset=False)
        if (rows.dtype == np.uint8) != (self.range_ is None):
            raise ValueError(f"X is of {rows.dtype}, and fit had {'no' if self.range_ else 'only'} uint8")
        pixels = self._pixels(rows)
        found = [self.map_(pixels[start : start + BATCH_ROWS]) for start in range(0, len(pixels), BATCH_ROWS)]
        return np.concatenate(found)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _shape_of(self, rows: NDArray[Any]) -> Shape:
        """Return (height, width, channels) of the image that a row is."""
        if self.shape is None:
            if rows.ndim == 4:
                height, width, channels = rows.shape[1:]
                return height, width, channels
            return 1, int(np.prod(rows.shape[1:])), 1
        height, width, channels = (*self.shape, 1)[:3]
        if rows.ndim == 2 and height * width * channels != rows.shape[1]:
            raise ValueError(
                f"shape={self.shape!r} has {height * width * channels} values, and a row {rows.shape[1]}"
            )
        return height, width, channels

    def _pixels(self, rows: NDArray[Any]) -> Pixels:
        """Bring rows to 8 bits and to the shape of images."""
        if self.range_ is not None:
            low, high = self.range_
            scaled = (rows.astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
            rows = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(rows).reshape(len(rows), *self._shape)


class _Rows:
    """Rows that a map is learnt from; see spec.Sampled."""

    def __init__(self, pixels: Pixels, labels: Labels) -> None:
        self._pixels, self._labels = pixels, labels
        height, width, channels = pixels.shape[1:]
        self.shape: Shape = height, width, channels
        self.n_sampled = len(pixels)

    def sample(self, n: int, seed: int) -> Sample:
        """Return up to n rows, in an order that `seed` chooses."""
        rows = np.random.default_rng([seed, *b"sample"]).permutation(len(self._pixels))[:n]
        return Sample(self._pixels[rows], self._labels[rows])
