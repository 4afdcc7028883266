"""FeatureMap: the protocol that every feature map follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.arrays import Features, Indices, Pixels
from common.errors import UnusableImagesError

Shape = tuple[int, int, int]
"""(height, width, channels) of an image."""

Arrays = Mapping[str, NDArray[Any]]
"""The arrays that a map has learnt, by name."""

BATCH_ROWS = 8192
"""The number of images whose features are computed at once: at 8,192 features per image they take 64 MiB."""

SAMPLE = 4_000
"""Images that filters, scales and widths are learnt from."""


class FeatureMap(Protocol):
    """Turns images into features of 8 bits.

    Features are integers from 0 to 255, so that their moments are exact. A map travels to workers by pickle and is
    saved with models and moments as the JSON that `describe` returns and the arrays that it has learnt.
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

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays that the map has learnt, which are saved beside the description; {} if none."""
        ...

    def __call__(self, pixels: Pixels) -> Features:
        """Compute features: uint8 (n, height, width, channels) to uint8 (n, d).

        Raises:
            UnusableImagesError: the features of some images cannot be computed.
        """
        ...


class Usable(NamedTuple):
    """The features of the images that a map can use.

    Attributes:
        x: the features, uint8 (m, d).
        kept: positions of the images, int64 (m,).
        reason: why the others cannot be used; empty if there are none.
    """

    x: Features
    kept: Indices
    reason: str


def usable_features(features: FeatureMap, pixels: Pixels) -> Usable:
    """Compute the features of those images, uint8 (n, height, width, channels), that a map can use, in batches."""
    found, kept, reason = [np.empty((0, features.n_features(pixels.shape[1:])), np.uint8)], [], ""
    for start in range(0, len(pixels), BATCH_ROWS):
        rows = np.arange(start, min(start + BATCH_ROWS, len(pixels)))
        try:
            x = features(pixels[rows[0] : rows[-1] + 1])
        except UnusableImagesError as error:
            rows, reason = np.delete(rows, error.rows), error.reason
            x = features(pixels[rows]) if len(rows) else found[0]
        found.append(x)
        kept.append(rows)
    return Usable(np.concatenate(found), np.concatenate([np.empty(0, np.int64), *kept]), reason)


class FieldsOnly:
    """Pickles the fields of a dataclass, and not what was derived from them and kept."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


def array_digests(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the SHA-256 of type, shape and contents of each array, as part of a description."""
    return {
        name: hashlib.sha256(
            f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        ).hexdigest()
        for name, array in arrays.items()
    }


def arrays_below(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with a prefix, under their names without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def digest_of(described: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a map's description, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
