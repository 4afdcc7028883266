"""Features that were computed before and stored in a table, in the place of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from common.arrays import Features, Pixels
from common.features.feature_map import FeatureMap, FieldsOnly, Shape


def stored_shape(d: int) -> Shape:
    """Return the shape that d features have in the place of an image."""
    return 1, 1, d


@dataclass(frozen=True)
class StoredFeatures(FieldsOnly):
    """The map that takes stored features as they are, and stands for the one that computed them.

    Attributes:
        computed_by: the map that computed them.
        image_shape: (height, width, channels) of the images that they were computed from.
    """

    computed_by: FeatureMap
    image_shape: Shape

    @property
    def exact(self) -> bool:
        """True: whatever computed them, everybody reads the same bytes."""
        return True

    @cached_property
    def digest(self) -> str:
        """The digest of the map that computed them: their moments can be added to those of images."""
        return self.computed_by.digest

    def n_features(self, shape: Shape) -> int:
        """Return d.

        Raises:
            ValueError: images, and not stored features, have this shape.
        """
        d = self.computed_by.n_features(self.image_shape)
        if shape != stored_shape(d):
            raise ValueError(f"{d:,} stored features, not images of {'x'.join(map(str, shape))}")
        return d

    def describe(self) -> dict[str, Any]:
        """Return the description of the map that computed them."""
        return self.computed_by.describe()

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays of the map that computed them."""
        return self.computed_by.arrays()

    def __call__(self, pixels: Pixels) -> Features:
        """Return uint8 (n, 1, 1, d) as (n, d)."""
        return pixels.reshape(len(pixels), pixels.shape[3])
