"""A random layer with a rectifier: an extreme learning machine (Huang et al. 2006; McDonnell et al. 2015).

Weights have 8 bits and their products are summed exactly. Responses below their mean count as zero, and the rest
is scaled to 8 bits by one IEEE product per number, so that an image has the same features alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Labels
from common.features.dense import DenseProduct, DenseStage
from common.features.feature_map import array_digests

LARGEST = 127
UNIT = 32
"""The standard deviation of Gaussian weights in units of their 8 bits."""

WEIGHTS = ("gaussian", "signs", "differences")

SCALED_ROWS = 2048
"""Images whose responses decide offsets and factors, at most."""


@dataclass(frozen=True)
class RandomLayer(DenseStage):
    """The stage that computes rectified responses.

    Attributes:
        weights: int8 (D, d).
        offsets: int32 (D,), subtracted from responses.
        factors: float32 (D,), by which responses are multiplied; 255 is the most.
    """

    kind: ClassVar[str] = "random"

    factors: NDArray[np.float32]

    def describe(self) -> dict[str, Any]:
        """Return the digests of the arrays."""
        return {"arrays": array_digests(self.arrays())}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return weights, offsets and factors."""
        return {"weights": self.weights, "offsets": self.offsets, "factors": self.factors}

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> RandomLayer:
        """Rebuild the stage."""
        return cls(arrays["weights"], arrays["offsets"], arrays["factors"])

    def __call__(self, x: Features) -> Features:
        """Compute responses: uint8 (n, d) to uint8 (n, D)."""

        def rectify(_rows: slice, columns: slice, products: NDArray[np.int32]) -> Features:
            products -= self.offsets[columns]
            np.maximum(products, 0, out=products)
            responses = products.astype(np.float32)
            responses *= self.factors[columns]
            np.minimum(responses, 255, out=responses)
            return responses.astype(np.uint8)

        return self.product.features(x, rectify)


@dataclass(frozen=True)
class RandomRecipe:
    """How weights are drawn.

    Attributes:
        n: the number of features, D.
        weights: "gaussian", "signs" (−1, 0 or 1), or "differences" of two images of different classes.
    """

    n: int
    weights: str = "gaussian"

    @property
    def uses_images(self) -> bool:
        """Differences of images tell of these."""
        return self.weights == "differences"

    @property
    def rows(self) -> int:
        """Any, or two to take a difference of."""
        return 2 if self.weights == "differences" else 1

    def learn(self, x: Features, labels: Labels, seed: int) -> RandomLayer:
        """Draw weights, and take offsets and factors from responses; see StageRecipe.learn."""
        rng = np.random.default_rng([seed, *b"random"])
        d = x.shape[1]
        if self.weights == "differences":
            weights = _differences(x, labels, self.n, rng)
        elif self.weights == "signs":
            weights = rng.integers(-1, 2, (self.n, d), np.int8)
        else:
            normal = rng.standard_normal((self.n, d), np.float32)
            weights = np.clip(np.rint(normal * UNIT), -LARGEST, LARGEST).astype(np.int8)
        responses = DenseProduct(weights)(x[:SCALED_ROWS])
        offsets = np.rint(responses.mean(axis=0)).astype(np.int32)
        largest = np.maximum(1, np.quantile(np.maximum(responses - offsets, 0), 0.999, axis=0))
        return RandomLayer(weights, offsets, (255 / largest).astype(np.float32))


def _differences(x: Features, labels: Labels, n: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return differences of images of different classes, each scaled to fill 8 bits: int8 (n, d)."""
    if len(np.unique(labels)) < 2:
        raise ValueError("differences need training images of two classes; use gaussian or signs")
    first = rng.integers(0, len(x), n)
    second = rng.integers(0, len(x), n)
    while len(same := np.flatnonzero(labels[first] == labels[second])):
        second[same] = rng.integers(0, len(x), len(same))
    found = np.empty((n, x.shape[1]), np.int8)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        difference = x[a].astype(np.float32) - x[b]
        found[i] = np.rint(difference * (LARGEST / max(1.0, float(np.abs(difference).max()))))
    return found
