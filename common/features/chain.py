"""A map of images followed by a stage: what one computes, the other takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from common.arrays import Features, Pixels
from common.features.feature_map import Arrays, FeatureMap, FieldsOnly, Shape, arrays_below, digest_of
from common.features.stage import Stage

KIND = "chain"


@dataclass(frozen=True)
class Chain(FieldsOnly):
    """A map of images, which may be a chain itself, and a stage behind it.

    Attributes:
        first: computes features of images.
        then: computes features of these features.
    """

    first: FeatureMap
    then: Stage

    @property
    def exact(self) -> bool:
        """All stages are exact."""
        return self.first.exact

    @cached_property
    def digest(self) -> str:
        """The digest of both maps."""
        return digest_of(self.describe())

    def n_features(self, shape: Shape) -> int:
        """Return the number of features of the stage, if it takes those of images of this shape.

        Raises:
            ValueError: it does not.
        """
        found = self.first.n_features(shape)
        if found != self.then.n_inputs:
            height, width, channels = shape
            raise ValueError(
                f"{self.then.kind} takes {self.then.n_inputs:,} features; images of {height}x{width}x{channels} "
                f"have {found:,}"
            )
        return self.then.n_outputs

    def describe(self) -> dict[str, Any]:
        """Return the descriptions of both, the stage's under the name of its kind."""
        return {"kind": KIND, "first": self.first.describe(), self.then.kind: self.then.describe()}

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
        stages: Mapping[str, Callable[[Mapping[str, Any], Arrays], Stage]],
    ) -> Chain:
        """Rebuild the chain.

        Args:
            described: what describe() returned.
            arrays: what arrays() returned.
            rebuild: rebuilds the first map.
            stages: functions that rebuild stages, by kind.

        Raises:
            ValueError: the stage is of a kind that is not known.
        """
        first, then = (arrays_below(arrays, f"{part}.") for part in ("first", "then"))
        (kind,) = described.keys() - {"kind", "first"}
        if kind not in stages:
            raise ValueError(f"features with a stage {kind!r}, which this version does not know")
        return cls(rebuild(described["first"], first), stages[kind](described[kind], then))

    def __call__(self, pixels: Pixels) -> Features:
        """Compute features: uint8 (n, height, width, channels) to uint8 (n, d)."""
        return self.then(self.first(pixels))
