"""FeatureMap: the protocol that every feature map follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from common.arrays import Features, Pixels

Shape = tuple[int, int, int]
"""(height, width, channels) of an image."""

BATCH_ROWS = 8192
"""The number of images whose features are computed at once: at 8,192 features per image they take 64 MiB."""


class FeatureMap(Protocol):
    """Turns images into features of 8 bits.

    Features are integers from 0 to 255, so that their moments are exact. A map travels to workers by pickle and is
    saved with models and moments as the JSON that `describe` returns.
    """

    @property
    def exact(self) -> bool:
        """True if an image has the same features alone and in any batch, on every engine and processor."""
        ...

    @property
    def digest(self) -> str:
        """A fingerprint: two maps have the same one if and only if they compute the same features."""
        ...

    def n_features(self, shape: Shape) -> int:
        """Return d, the number of features of an image of this shape."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the description from which the registry rebuilds the map, as JSON; its "kind" names the map."""
        ...

    def __call__(self, pixels: Pixels) -> Features:
        """Compute features: uint8 (n, height, width, channels) to uint8 (n, d)."""
        ...


def digest_of(described: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a map's description, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
