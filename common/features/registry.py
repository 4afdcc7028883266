"""The feature maps and stages there are, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from common.features import chain, joined, network, patches, pixels
from common.features.feature_map import Arrays, FeatureMap
from common.features.fourier import Fourier
from common.features.landmarks import Landmarks
from common.features.random_layer import RandomLayer
from common.features.stage import Stage

STAGES: dict[str, Callable[[Mapping[str, Any], Arrays], Stage]] = {
    stage.kind: stage.of for stage in (Landmarks, Fourier, RandomLayer)
}
"""Functions that rebuild a stage from its description and arrays. A new stage adds one word here."""

KINDS: dict[str, Callable[[Mapping[str, Any], Arrays], FeatureMap]] = {
    pixels.KIND: lambda _described, _arrays: pixels.PIXELS,
    patches.KIND: patches.Patches.of,
    network.KIND: network.NetworkFeatures.of,
    chain.KIND: lambda described, arrays: chain.Chain.of(described, arrays, feature_map_of, STAGES),
    joined.KIND: lambda described, arrays: joined.Joined.of(described, arrays, feature_map_of),
}
"""Functions that rebuild a map from its description and arrays. A new map of images adds one line here."""

PREFIX = "features."
"""The prefix of the names of a map's arrays in files that hold other arrays too."""


def feature_map_of(described: Mapping[str, Any], arrays: Arrays) -> FeatureMap:
    """Rebuild the map that `FeatureMap.describe` described.

    Raises:
        KeyError: an array is missing.
        ValueError: no map of that kind is known, or the arrays are not those described.
    """
    kind = described["kind"]
    if kind not in KINDS:
        raise ValueError(f"features of kind {kind!r}, which this version does not know")
    found = KINDS[kind](described, arrays)
    if found.describe() != dict(described):
        raise ValueError(f"features of kind {kind!r} whose arrays are not those that were saved")
    return found


def saved_arrays(features: FeatureMap) -> dict[str, NDArray[Any]]:
    """Return the arrays of a map under the names that they have in files."""
    return {PREFIX + name: array for name, array in features.arrays().items()}


def saved_map(described: Mapping[str, Any], file: Mapping[str, NDArray[Any]]) -> FeatureMap:
    """Rebuild a map from a description and the arrays of a file.

    Raises:
        KeyError: an array is missing.
        ValueError: no map of that kind is known, or the arrays are not those described.
    """
    names = [name for name in file if name.startswith(PREFIX)]
    return feature_map_of(described, {name.removeprefix(PREFIX): file[name] for name in names})
