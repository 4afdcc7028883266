"""Raw pixels as features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from common.arrays import Features, Pixels
from common.features.feature_map import Shape, digest_of

KIND = "pixels"


@dataclass(frozen=True)
class RawPixels:
    """The map that takes each value of each pixel as a feature, in the order row, column, channel."""

    @property
    def exact(self) -> bool:
        """Pixels are the same bytes everywhere."""
        return True

    @property
    def digest(self) -> str:
        """Equal for all instances."""
        return digest_of(self.describe())

    def n_features(self, shape: Shape) -> int:
        """Return height × width × channels."""
        return math.prod(shape)

    def describe(self) -> dict[str, Any]:
        """Return the kind, which says everything."""
        return {"kind": KIND}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Nothing is learnt."""
        return {}

    def __call__(self, pixels: Pixels) -> Features:
        """Flatten uint8 (n, height, width, channels) to (n, d), without a copy if the pixels are contiguous."""
        return pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))  # −1 would fail for an empty batch


PIXELS = RawPixels()
