"""The model of a run as an ONNX file: ridge classifiers with their features, and networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.export.graph import Graph
from common.export.maps import map_nodes, network_nodes
from common.export.names import IMAGES
from common.features.network_file import NetworkFile
from common.models.loaded import file_format
from common.ridge.model import RidgeModel, is_model


def exported(run: Path) -> bytes:
    """Return the model of a run folder as an ONNX file, from uint8 pixels to scores and the best class.

    Scores of a ridge classifier are float64, and to the last bit those that it computes itself if its features are
    exact; those of a network are float32.

    Raises:
        InputError: there is no model, or it cannot be exported.
    """
    try:
        return _ridge(RidgeModel.load(run)) if is_model(run) else _network(run)
    except ValueError as error:
        raise InputError(f"{run}: {error}") from error


def _ridge(model: RidgeModel) -> bytes:
    graph = Graph()
    x = graph.cast(map_nodes(graph, model.features, IMAGES, model.shape), np.float64)
    coarse, fine = model.path.parts
    scores = graph.node("MatMul", x, graph.constant(coarse, np.float64))
    scores = graph.node("Add", scores, graph.node("MatMul", x, graph.constant(fine, np.float64)))
    scores = graph.node("Add", scores, graph.constant(model.intercept, np.float64))
    noted = _noted(model.class_names, file_format(model).described())
    return graph.model(model.shape, scores, np.float64, len(model.class_names), noted)


def _network(run: Path) -> bytes:
    from common.nets.backbones import whole_network  # needs PyTorch, which ridge classifiers do not

    found, classes = whole_network(run)
    network = NetworkFile.of(run.name, found.onnx(), decoded_into=found.preprocessing.pixel_format)
    shape = (*found.shape[:2], found.preprocessing.pixel_format.channels)
    graph = Graph()
    scores = network_nodes(graph, network, IMAGES, shape)
    noted = _noted(classes, found.preprocessing.pixel_format.described())
    return graph.model(shape, scores, np.float32, len(classes), noted)


def _noted(class_names: tuple[str, ...], pixel_format: dict[str, Any]) -> dict[str, str]:
    return {
        "class_names": json.dumps(class_names, ensure_ascii=False),
        "pixel_format": json.dumps(pixel_format),
    }
