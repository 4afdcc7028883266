"""The feature map of a table of features: how it is described in dataset.json, and where its arrays are."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any
from zipfile import BadZipFile

import numpy as np

from common.data.storage import Storage, writing_to
from common.data.table.table import FEATURES, Table
from common.errors import InputError
from common.features.feature_map import FeatureMap, Shape
from common.features.registry import saved_arrays, saved_map
from common.features.stored import StoredFeatures


def described_map(features: FeatureMap, spec: str, image_shape: Shape) -> dict[str, Any]:
    """Return what dataset.json says of a map.

    Args:
        features: the map.
        spec: how it was learnt.
        image_shape: (height, width, channels) of the images.
    """
    return {"spec": spec, "image_shape": list(image_shape), "map": features.describe()}


def write_map(storage: Storage, features: FeatureMap, described: Mapping[str, Any]) -> None:
    """Write a map into a table's folder, before any file that it computes.

    Args:
        storage: the folder.
        features: the map.
        described: what `described_map` returned.

    Raises:
        RunError: it cannot be written.
    """
    buffer = io.BytesIO()
    arrays = {"described": np.array(json.dumps(described)), **saved_arrays(features)}
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with writing_to(storage):
        storage.write(FEATURES, buffer.getvalue())


def map_of_table(table: Table) -> StoredFeatures | None:
    """Return the map that computed the features of a table; None for a table of images.

    Raises:
        InputError: the description or the arrays are missing or damaged.
    """
    if table.features is None:
        return None
    found = read_map(table.storage, table.features)
    try:
        found.n_features(table.shape)
    except ValueError as error:
        raise InputError(f"{table.storage}/{FEATURES}: is not the map of this table ({error})") from error
    return found


def read_map(storage: Storage, described: Mapping[str, Any]) -> StoredFeatures:
    """Read the map in a table's folder.

    Raises:
        InputError: it is missing or damaged, or is not what is described.
    """
    try:
        with np.load(io.BytesIO(storage.read(FEATURES)), allow_pickle=False) as arrays:
            computed_by = saved_map(described["map"], arrays)
        height, width, channels = (int(length) for length in described["image_shape"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(f"{storage}/{FEATURES}: the feature map of the table cannot be read ({error})") from error
    return StoredFeatures(computed_by, (height, width, channels))


def left_map(storage: Storage) -> dict[str, Any] | None:
    """Return the description of a map that an ingest wrote before it was killed; None if it cannot be read."""
    try:
        with np.load(io.BytesIO(storage.read(FEATURES)), allow_pickle=False) as arrays:
            described: dict[str, Any] = json.loads(str(arrays["described"]))
            return described if saved_map(described["map"], arrays) and described["spec"] else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None
