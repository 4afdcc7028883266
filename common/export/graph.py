"""A graph of ONNX that is built node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""The version of ONNX's operators; networks are exported with the same."""

IMAGES, SCORES, LABEL = "images", "scores", "label"
"""The input, uint8 (n, height, width, channels), and the outputs: floats (n, n_classes), and int64 (n,)."""


class Graph:
    """Nodes and constants. A value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._count = 0

    def constant(self, values: ArrayLike, dtype: DTypeLike) -> str:
        """Add a constant, and return its name."""
        name = self._name("constant")
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of this."""
        name = self._name(operator)
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def cast(self, value: str, dtype: DTypeLike) -> str:
        """Return a value of another type."""
        return self.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def rows(self, value: str, width: int) -> str:
        """Return a value as rows of numbers, (n, width)."""
        return self.node("Reshape", value, self.constant([-1, width], np.int64))

    def insert(self, model: bytes, image: str) -> str:
        """Insert a network with one input, and return the name of its first output."""
        prefix = self._name("network") + "/"
        graph = onnx.compose.add_prefix(onnx.load_from_string(model), prefix).graph
        initial = {one.name for one in graph.initializer}
        (its_input,) = (one.name for one in graph.input if one.name not in initial)
        self._constants += graph.initializer
        for node in graph.node:
            node.input[:] = [image if name == its_input else name for name in node.input]
            self._nodes.append(node)
        return str(graph.output[0].name)

    def model(
        self, shape: tuple[int, int, int], scores: str, dtype: DTypeLike, n_classes: int, noted: dict[str, str]
    ) -> bytes:
        """Return the file.

        Args:
            shape: (height, width, channels) of images.
            scores: the value that is the output.
            dtype: its type.
            n_classes: the number of classes.
            noted: metadata.
        """
        self._nodes.append(helper.make_node("Identity", [scores], [SCORES]))
        self._nodes.append(helper.make_node("ArgMax", [SCORES], [LABEL], axis=1, keepdims=0))
        of_scores = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph = helper.make_graph(
            self._nodes,
            "classifier",
            [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["n", *shape])],
            [
                helper.make_tensor_value_info(SCORES, of_scores, ["n", n_classes]),
                helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["n"]),
            ],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        helper.set_model_props(model, noted)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"


def channels_first(graph: Graph, image: str, dtype: DTypeLike) -> str:
    """Return images (n, height, width, channels) as numbers (n, channels, height, width)."""
    return graph.node("Transpose", graph.cast(image, dtype), perm=[0, 3, 1, 2])
