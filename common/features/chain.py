"""A map of images followed by maps of features: what one computes, the next takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from common.arrays import Features, Pixels
from common.features.feature_map import FeatureMap, Shape, array_digests, digest_of
from common.features.landmarks import Landmarks

KIND = "chain"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Chain:
    """A map of images, and the similarities of what it computes to landmarks.

    Attributes:
        first: computes features of images.
        then: computes features of these features.
    """

    first: FeatureMap
    then: Landmarks

    @property
    def exact(self) -> bool:
        """Landmarks are exact."""
        return self.first.exact

    @cached_property
    def digest(self) -> str:
        """The digest of both maps."""
        return digest_of(self.describe())

    def n_features(self, shape: Shape) -> int:
        """Return the number of landmarks, if the first map takes images of this shape."""
        self.first.n_features(shape)
        return len(self.then.rows)

    def describe(self) -> dict[str, Any]:
        """Return the description of the first map, and what the second has learnt."""
        then = {"shift": self.then.shift, "arrays": array_digests(self.then.arrays())}
        return {"kind": KIND, "first": self.first.describe(), "landmarks": then}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of both."""
        first = {f"first.{name}": array for name, array in self.first.arrays().items()}
        return first | {f"then.{name}": array for name, array in self.then.arrays().items()}

    @classmethod
    def of(
        cls,
        described: Mapping[str, Any],
        arrays: Arrays,
        rebuild: Callable[[Mapping[str, Any], Arrays], FeatureMap],
    ) -> Chain:
        """Rebuild the map; `rebuild` rebuilds the first one."""
        first, then = (
            {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{part}.")}
            for part in ("first", "then")
        )
        return cls(rebuild(described["first"], first), Landmarks.of(described["landmarks"], then))

    def __call__(self, pixels: Pixels) -> Features:
        """Compute features: uint8 (n, height, width, channels) to uint8 (n, d)."""
        return self.then(self.first(pixels))
