"""The stages behind a map, as nodes of ONNX that compute the same integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.export.graph import Graph
from common.features.dense import COLUMNS, shifted
from common.features.fourier import FRACTION, TURN, Fourier
from common.features.landmarks import ENTRIES, Landmarks, squares
from common.features.random_layer import RandomLayer
from common.features.stage import Stage
from common.int8 import SHIFT

MOST_PRODUCT = 128 * 128
"""The largest product of two numbers of 8 bits with a sign."""


def stage_nodes(graph: Graph, stage: Stage, x: str) -> str:
    """Add a stage, and return its features, uint8 (n, D).

    Args:
        graph: what to add to.
        stage: the stage.
        x: the features that it takes, uint8 (n, d).

    Raises:
        ValueError: there is no export of such a stage.
    """
    for kind, nodes in STAGES.items():
        if isinstance(stage, kind):
            return nodes(graph, stage, x)
    raise ValueError(f"stages of kind {stage.kind!r} cannot be exported")


def _products(graph: Graph, z: str, weights: NDArray[np.int8]) -> str:
    """Return products with weights, int8 (D, d), as int64 (n, D); sums of COLUMNS are exact in float32."""
    total = ""
    for start in range(0, weights.shape[1], COLUMNS):
        stop = min(start + COLUMNS, weights.shape[1])
        some = z
        if weights.shape[1] > COLUMNS:
            bounds = (graph.constant([edge], np.int64) for edge in (start, stop, 1))
            some = graph.node("Slice", z, *bounds)
        own = graph.cast(graph.constant(weights[:, start:stop].T, np.int8), np.float32)
        product = graph.cast(graph.node("MatMul", some, own), np.int64)
        total = graph.node("Add", total, product) if total else product
    return total


def _shifted(graph: Graph, x: str) -> str:
    return graph.node("Sub", graph.cast(x, np.float32), graph.constant(SHIFT, np.float32))


def _landmarks(graph: Graph, stage: Landmarks, x: str) -> str:
    z, weights = _shifted(graph, x), shifted(stage.rows)
    wide = graph.cast(z, np.int64)
    own = graph.node("ReduceSum", graph.node("Mul", wide, wide), graph.constant([1], np.int64), keepdims=1)
    twice = graph.node("Mul", _products(graph, z, weights), graph.constant(2, np.int64))
    distances = graph.node("Sub", graph.node("Add", own, graph.constant(squares(weights), np.int64)), twice)
    index = graph.node("Div", distances, graph.constant(2**stage.shift, np.int64))
    index = graph.node("Min", index, graph.constant(ENTRIES - 1, np.int64))
    return graph.node("Gather", graph.constant(stage.table, np.uint8), index)


def _fourier(graph: Graph, stage: Fourier, x: str) -> str:
    phases = graph.node(
        "Mul", _products(graph, _shifted(graph, x), stage.weights), graph.constant(stage.factor, np.int64)
    )
    # whole turns are added, so that division, which rounds towards 0, rounds down
    most = MOST_PRODUCT * stage.weights.shape[1] * stage.factor
    turns = math.ceil(most / 2**FRACTION / TURN) * TURN
    phases = graph.node("Add", phases, graph.constant(turns << FRACTION, np.int64))
    phases = graph.node("Div", phases, graph.constant(1 << FRACTION, np.int64))
    phases = graph.node("Add", phases, graph.constant(stage.offsets, np.int64))
    phases = graph.node("Mod", phases, graph.constant(TURN, np.int64))
    return graph.node("Gather", graph.constant(stage.table, np.uint8), phases)


def _random(graph: Graph, stage: RandomLayer, x: str) -> str:
    products = _products(graph, _shifted(graph, x), stage.weights)
    responses = graph.node("Sub", products, graph.constant(stage.offsets, np.int64))
    responses = graph.cast(graph.node("Max", responses, graph.constant(0, np.int64)), np.float32)
    responses = graph.node("Mul", responses, graph.constant(stage.factors, np.float32))
    return graph.cast(graph.node("Min", responses, graph.constant(255, np.float32)), np.uint8)


STAGES: dict[type, Callable[[Graph, Any, str], str]] = {
    Landmarks: _landmarks,
    Fourier: _fourier,
    RandomLayer: _random,
}
"""Functions that add a stage."""
