"""Maps of images as nodes of ONNX that compute the same features of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from common.export.graph import Graph, channels_first
from common.export.stages import stage_nodes
from common.features.chain import Chain
from common.features.feature_map import FeatureMap, Shape
from common.features.filters import LARGEST
from common.features.joined import Joined
from common.features.network import NetworkFeatures
from common.features.network_file import NetworkFile
from common.features.patches import CONTRAST, SIDE, Patches, cell_matrix
from common.features.pixels import RawPixels


def map_nodes(graph: Graph, features: FeatureMap, images: str, shape: Shape) -> str:
    """Add a map of images, and return its features, uint8 (n, d).

    Args:
        graph: what to add to.
        features: the map.
        images: uint8 (n, height, width, channels).
        shape: (height, width, channels).

    Raises:
        ValueError: there is no export of such a map.
    """
    for kind, nodes in MAPS.items():
        if isinstance(features, kind):
            return nodes(graph, features, images, shape)
    raise ValueError(f"features of kind {features.describe()['kind']!r} cannot be exported")


def _pixels(graph: Graph, _: RawPixels, images: str, shape: Shape) -> str:
    return graph.rows(images, prod(shape))


def _chain(graph: Graph, chain: Chain, images: str, shape: Shape) -> str:
    return stage_nodes(graph, chain.then, map_nodes(graph, chain.first, images, shape))


def _joined(graph: Graph, joined: Joined, images: str, shape: Shape) -> str:
    return graph.node("Concat", *(map_nodes(graph, features, images, shape) for features in joined.maps), axis=1)


def _network(graph: Graph, features: NetworkFeatures, images: str, shape: Shape) -> str:
    values = network_nodes(graph, features.network, images, shape)
    if features.root:
        values = graph.node("Sqrt", graph.node("Max", values, graph.constant(0, np.float32)))
    values = graph.node("Sub", values, graph.constant(features.lowest, np.float32))
    values = graph.node("Mul", values, graph.constant(features.factor, np.float32))
    values = graph.node("Clip", values, graph.constant(0, np.float32), graph.constant(255, np.float32))
    return graph.rows(graph.cast(graph.node("Round", values), np.uint8), features.width)


def network_nodes(graph: Graph, network: NetworkFile, images: str, shape: Shape) -> str:
    """Add a network and what happens to pixels before it, and return its rows of numbers, float32 (n, d)."""
    scale = np.array([1 / (255 * deviation) for deviation in network.deviation], np.float32)
    shift = np.array([-m / s for m, s in zip(network.mean, network.deviation, strict=True)], np.float32)
    numbers = graph.cast(images, np.float32)
    if shape[2] == 1 and network.shape[2] == 3:
        numbers = graph.node("Concat", numbers, numbers, numbers, axis=3)
    numbers = graph.node("Mul", numbers, graph.constant(scale, np.float32))
    numbers = graph.node("Add", numbers, graph.constant(shift, np.float32))
    if not network.channels_last:
        numbers = graph.node("Transpose", numbers, perm=[0, 3, 1, 2])
    return graph.insert(network.model.tobytes(), numbers, network.output)


def _patches(graph: Graph, patches: Patches, images: str, shape: Shape) -> str:
    pooled = _pooled(graph, patches, images, shape)
    if patches.mirror:
        ends = (graph.constant([edge], np.int64) for edge in (-1, np.iinfo(np.int64).min + 1, 2, -1))
        mirrored = graph.node("Slice", images, *ends)
        pooled = graph.node("Add", pooled, _pooled(graph, patches, mirrored, shape))
    scaled = graph.node("Mul", pooled, graph.constant(255, np.int64))
    scaled = graph.node("Div", scaled, graph.constant(patches.scales, np.int64))
    scaled = graph.node("Min", scaled, graph.constant(255, np.int64))
    return graph.rows(graph.cast(scaled, np.uint8), patches.n_features(shape))


def _normalised(graph: Graph, patches: Patches, images: str, shape: Shape) -> str:
    """Return patches, float32 (n, k·k·channels, rows, columns) of whole numbers; see patches.normalised."""
    channels = shape[2]
    length = SIDE * SIDE * channels
    each = np.eye(length, dtype=np.float32).reshape(length, channels, SIDE, SIDE)
    numbers = channels_first(graph, images, np.float32)
    found = graph.node("Conv", numbers, graph.constant(each, np.float32), pads=[patches.pad] * 4)
    axis = graph.constant([1], np.int64)
    total = graph.cast(graph.node("ReduceSum", found, axis), np.float64)
    squares = graph.cast(graph.node("ReduceSum", graph.node("Mul", found, found), axis), np.float64)
    spread = graph.node("Mul", squares, graph.constant(length, np.float64))
    spread = graph.node("Sub", spread, graph.node("Mul", total, total))
    spread = graph.node("Add", spread, graph.constant(length * length * patches.floor, np.float64))
    inverse = graph.node("Div", graph.constant(CONTRAST * length, np.float64), graph.node("Sqrt", spread))
    mean = graph.node("Div", graph.node("Mul", total, inverse), graph.constant(length, np.float64))
    found = graph.node("Mul", found, graph.cast(inverse, np.float32))
    found = graph.node("Round", graph.node("Sub", found, graph.cast(mean, np.float32)))
    return graph.node("Clip", found, *(graph.constant(edge, np.float32) for edge in (-LARGEST, LARGEST)))


def _pooled(graph: Graph, patches: Patches, images: str, shape: Shape) -> str:
    """Return sums of clipped responses, int64 (n, cells, cells, 2F)."""
    rows, columns = (side + 2 * patches.pad - SIDE + 1 for side in shape[:2])
    by_row, by_column = (cell_matrix(positions, patches.cells) for positions in (rows, columns))
    area = int(by_row[0].sum()) * int(by_column[0].sum())
    weights = patches.filters.astype(np.float32)[:, :, None, None]
    responses = graph.node("Conv", _normalised(graph, patches, images, shape), graph.constant(weights, np.float32))
    low, high = patches.offsets + patches.thresholds, patches.offsets + patches.ceilings
    found: list[str] = []
    for least, most in ((low, high), (2 * patches.offsets - high, 2 * patches.offsets - low)):
        clipped = graph.node("Max", responses, graph.constant(least[:, None, None], np.float32))
        clipped = graph.node("Min", clipped, graph.constant(most[:, None, None], np.float32))
        sums = graph.node("MatMul", graph.constant(by_row, np.float64), graph.cast(clipped, np.float64))
        sums = graph.node("MatMul", sums, graph.constant(by_column.T, np.float64))
        whole = graph.cast(graph.node("Transpose", sums, perm=[0, 2, 3, 1]), np.int64)
        bound = graph.constant(area * (most if found else least).astype(np.int64), np.int64)
        # what was summed is a response and not its distance from the threshold
        found.append(graph.node("Sub", *((bound, whole) if found else (whole, bound))))
    return graph.node("Concat", *found, axis=3)


MAPS: dict[type, Callable[[Graph, Any, str, Shape], str]] = {
    RawPixels: _pixels,
    Patches: _patches,
    NetworkFeatures: _network,
    Chain: _chain,
    Joined: _joined,
}
"""Functions that add a map."""
