"""Deep features: what a trained network makes of an image, cut to 8 bits.

From the 8 bits on, everything is as exact as for any other features. The network's own numbers are the same alone
and in any batch, on one type of processor and with one version of onnxruntime; another processor may round them
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Pixels, Singles
from common.errors import UnusableImagesError
from common.features.feature_map import FieldsOnly, Shape, array_digests, digest_of
from common.features.network_file import BATCH, NetworkFile, check_shape

KIND = "network"

TAIL = 0.001
"""The share of embedded values that may lie beyond either end of the 8 bits."""

SMALLEST_RANGE = 1e-30
"""The smallest range of values that is spread over the 8 bits: a network may say nothing at all."""

CLOSE = 1e-3
"""The largest difference between two runtimes, as a share of the largest value."""


@dataclass(frozen=True)
class NetworkFeatures(FieldsOnly):
    """The map that embeds images and cuts the numbers to 8 bits, all on one scale.

    Attributes:
        network: embeds.
        width: the number of values of an embedding, d.
        lowest: what becomes 0.
        factor: by which values are multiplied, less the lowest.
        root: True to take square roots of values first, where negative ones count as 0.
    """

    network: NetworkFile
    width: int
    lowest: float
    factor: float
    root: bool

    exact = False

    @cached_property
    def digest(self) -> str:
        """The digest of network and scale."""
        return digest_of(self.describe())

    def n_features(self, shape: Shape) -> int:
        """Return d.

        Raises:
            ValueError: the network takes images of another shape.
        """
        check_shape(self.network, shape)
        return self.width

    def describe(self) -> dict[str, Any]:
        """Return the preprocessing, the scale, and the digest of the network."""
        network = self.network
        return {
            "kind": KIND,
            "network": network.name,
            "shape": list(network.shape),
            "mean": list(network.mean),
            "deviation": list(network.deviation),
            "width": self.width,
            "lowest": self.lowest,
            "factor": self.factor,
            "root": self.root,
            "arrays": array_digests(self.arrays()),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the ONNX file."""
        return {"model": self.network.model}

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> NetworkFeatures:
        """Rebuild the map."""
        height, width, channels = (int(length) for length in described["shape"])
        mean, deviation = (tuple(map(float, described[key])) for key in ("mean", "deviation"))
        model = np.asarray(arrays["model"], np.uint8)
        network = NetworkFile(described["network"], model, (height, width, channels), mean, deviation)
        scale = float(described["lowest"]), float(described["factor"])
        return cls(network, int(described["width"]), *scale, bool(described["root"]))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the other runtime behind: it need not travel."""
        return {**super().__getstate__(), "network": replace(self.network, reference=None)}

    def __call__(self, pixels: Pixels) -> Features:
        """Compute features: uint8 (n, height, width, channels) to uint8 (n, d).

        Raises:
            UnusableImagesError: the network makes NaN or infinity of some images, as one that overflows does.
        """
        check_shape(self.network, pixels.shape[1:])
        values = self.network.embed(pixels)
        unusable = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(unusable):
            reason = f"{self.network.name} makes numbers of it that are not finite"
            raise UnusableImagesError(unusable.tolist(), reason)
        values = _rooted(values, self.root)
        values -= np.float32(self.lowest)
        values *= np.float32(self.factor)
        return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _rooted(values: Singles, root: bool) -> Singles:
    return np.sqrt(np.maximum(values, 0)) if root else values


@dataclass(frozen=True)
class NetworkRecipe:
    """How the scale of a network's embeddings is learnt.

    Attributes:
        network: embeds.
        root: see NetworkFeatures.
    """

    network: NetworkFile
    root: bool = False

    rows: ClassVar[int] = 512
    """Images whose embeddings decide the scale: few, because embedding them takes time."""

    def n_features(self, shape: Shape) -> int:
        """Return the number of values of an embedding.

        Raises:
            ValueError: the network takes images of another shape.
        """
        check_shape(self.network, shape)
        return int(self.network.embed(np.zeros((1, *shape), np.uint8)).shape[1])

    def learn(self, sample: Pixels, seed: int) -> NetworkFeatures:
        """Fix the scale on some images, and compare the embeddings of a few with those of the other runtime.

        Images whose embeddings are not finite have no say.

        Raises:
            ValueError: images have another shape, none has a finite embedding, or the two runtimes differ.
        """
        check_shape(self.network, sample.shape[1:])
        images = sample[: self.rows]
        values = self.network.embed(images)
        finite = np.isfinite(values).all(axis=1)
        if not finite.any():
            raise ValueError(f"{self.network.name} makes numbers that are not finite of all {len(images)} images")
        images, values = images[finite], values[finite]
        if self.network.reference is not None:
            few = images[: 2 * BATCH]
            difference = np.abs(values[: len(few)] - self.network.reference(few)).max()
            if difference > CLOSE * np.abs(values).max():
                raise ValueError(f"onnxruntime and torch differ by {difference:.3g} on the first images")
        values = _rooted(values, self.root)
        low, high = (float(np.quantile(values, share)) for share in (TAIL, 1 - TAIL))
        lowest = 0.0 if values.min() >= 0 else float(np.float32(low))
        factor = np.float32(255 / max(high - lowest, SMALLEST_RANGE))
        return NetworkFeatures(self.network, values.shape[1], lowest, float(factor), self.root)
