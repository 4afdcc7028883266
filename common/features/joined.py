"""Maps side by side: an image has the features of the first, then those of the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Pixels
from common.errors import UnusableImagesError
from common.features.feature_map import Arrays, FeatureMap, FieldsOnly, Shape, arrays_below, digest_of

KIND = "joined"


@dataclass(frozen=True)
class Joined(FieldsOnly):
    """Maps of the same images, whose features stand side by side.

    Attributes:
        maps: compute features of images.
    """

    maps: tuple[FeatureMap, ...]

    @property
    def exact(self) -> bool:
        """All maps are exact."""
        return all(features.exact for features in self.maps)

    @cached_property
    def digest(self) -> str:
        """The digest of all maps."""
        return digest_of(self.describe())

    def n_features(self, shape: Shape) -> int:
        """Return the sum of the numbers of features.

        Raises:
            ValueError: a map does not take images of this shape.
        """
        return sum(features.n_features(shape) for features in self.maps)

    def describe(self) -> dict[str, Any]:
        """Return the descriptions of all maps."""
        return {"kind": KIND, "maps": [features.describe() for features in self.maps]}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of all maps, behind their positions."""
        return {
            f"{position}.{name}": array
            for position, features in enumerate(self.maps)
            for name, array in features.arrays().items()
        }

    @classmethod
    def of(
        cls,
        described: Mapping[str, Any],
        arrays: Arrays,
        rebuild: Callable[[Mapping[str, Any], Arrays], FeatureMap],
    ) -> Joined:
        """Rebuild the maps.

        Args:
            described: what describe() returned.
            arrays: what arrays() returned.
            rebuild: rebuilds one of the maps.
        """
        return cls(tuple(rebuild(one, arrays_below(arrays, f"{i}.")) for i, one in enumerate(described["maps"])))

    def __call__(self, pixels: Pixels) -> Features:
        """Compute features: uint8 (n, height, width, channels) to uint8 (n, d).

        Raises:
            UnusableImagesError: the features of some images cannot be computed, by one map or another.
        """
        found, unusable, reasons = [], set[int](), []
        for features in self.maps:
            try:
                found.append(features(pixels))
            except UnusableImagesError as error:
                unusable.update(error.rows)
                reasons.append(error.reason)
        if unusable:
            raise UnusableImagesError(sorted(unusable), "; ".join(reasons))
        return np.concatenate(found, axis=1)
