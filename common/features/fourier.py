"""Random Fourier features: cosines whose products approximate a Gaussian kernel (Rahimi & Recht 2007).

Frequencies are cut to 8 bits, and phases are whole numbers modulo 2¹⁶, which are looked up in a table of the
cosine. So an image has the same features alone and in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Labels
from common.features.dense import DenseStage
from common.features.feature_map import array_digests
from common.features.landmarks import COMPARED, Distances

TURN = 1 << 16
"""Phases of one turn, and entries of the table."""

UNIT = 32
"""The standard deviation of the weights in units of their 8 bits: 127 is four of them."""

FRACTION = 20
"""Bits behind the point of the factor from products to phases."""

WIDTH = 0.25
"""The square of the kernel's bandwidth, as a share of the median squared distance of images."""


@dataclass(frozen=True)
class Fourier(DenseStage):
    """The stage that computes cosines.

    Attributes:
        weights: int8 (D, d), frequencies.
        offsets: int32 (D,), phases from 0 to TURN − 1.
        factor: what a product of features and weights adds to the phase, times 2 to the power of FRACTION.
        table: uint8 (TURN,), cosines from 0 to 255.
    """

    kind: ClassVar[str] = "fourier"

    factor: int
    table: NDArray[np.uint8]

    def describe(self) -> dict[str, Any]:
        """Return the factor, and the digests of the arrays."""
        return {"factor": self.factor, "arrays": array_digests(self.arrays())}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return frequencies, phases and table."""
        return {"weights": self.weights, "offsets": self.offsets, "table": self.table}

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Fourier:
        """Rebuild the stage."""
        return cls(arrays["weights"], arrays["offsets"], int(described["factor"]), arrays["table"])

    def __call__(self, x: Features) -> Features:
        """Compute cosines: uint8 (n, d) to uint8 (n, D)."""

        def look_up(_rows: slice, columns: slice, products: NDArray[np.int32]) -> Features:
            phases = products.astype(np.int64)
            phases *= self.factor
            phases >>= FRACTION
            phases += self.offsets[columns]
            phases &= TURN - 1
            return self.table[phases]

        return self.product.features(x, look_up)


@dataclass(frozen=True)
class FourierRecipe:
    """How frequencies are drawn: from a normal distribution, whose deviation is one over the bandwidth.

    Attributes:
        n: the number of frequencies.
        width: the square of the bandwidth, as a share of the median squared distance of images.
        sigma: the bandwidth itself, for features from 0 to 255, so that no image decides it; None for `width`.
    """

    uses_images: ClassVar[bool] = False

    n: int
    width: float = WIDTH
    sigma: float | None = None

    @property
    def rows(self) -> int:
        """Two, which have a distance."""
        return 2

    def learn(self, x: Features, labels: Labels, seed: int) -> Fourier:
        """Draw frequencies and phases; see StageRecipe.learn."""
        rng = np.random.default_rng([seed, *b"fourier"])
        sigma = self.sigma
        if sigma is None:
            few = x[:COMPARED]
            distances = Distances(few)(few)[~np.eye(len(few), dtype=bool)]
            sigma = math.sqrt(max(1.0, self.width * float(np.median(distances)))) if len(distances) else 1.0
        normal = rng.standard_normal((self.n, x.shape[1]), np.float32)
        weights = np.clip(np.rint(normal * UNIT), -127, 127).astype(np.int8)
        offsets = rng.integers(0, TURN, self.n).astype(np.int32)
        factor = round(TURN / (2 * math.pi * sigma * UNIT) * 2**FRACTION)
        cosines = np.cos(np.arange(TURN) * (2 * math.pi / TURN))
        return Fourier(weights, offsets, factor, np.rint(127.5 + 127.5 * cosines).astype(np.uint8))
