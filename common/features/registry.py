"""The feature maps there are, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.features import pixels
from common.features.feature_map import FeatureMap

KINDS: dict[str, Callable[[Mapping[str, Any]], FeatureMap]] = {
    pixels.KIND: lambda _described: pixels.PIXELS,
}
"""Functions that rebuild a map from its description. A new map adds one line here."""


def feature_map_of(described: Mapping[str, Any]) -> FeatureMap:
    """Rebuild the map that `FeatureMap.describe` described.

    Raises:
        ValueError: no map of that kind is known.
    """
    kind = described["kind"]
    if kind not in KINDS:
        raise ValueError(f"features of kind {kind!r}, which this version does not know")
    return KINDS[kind](described)
