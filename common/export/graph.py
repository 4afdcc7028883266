"""A graph of ONNX that is built node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper, numpy_helper, version_converter

from common.export.names import IMAGES, LABEL, SCORES

OPSET = 17
"""The version of ONNX's operators, unless a network that is inserted needs a later one."""


class Graph:
    """Nodes and constants. A value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._count = 0
        self._opset = OPSET

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

    def insert(self, file: bytes, image: str, output: str) -> str:
        """Insert a network with one input, and return the name of one of its outputs.

        Raises:
            ValueError: it has operators that are not ONNX's own, or that this version of onnx cannot convert.
        """
        model = onnx.load_from_string(file)
        opsets = {one.domain: one.version for one in model.opset_import}
        foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
        if foreign or model.functions or model.graph.sparse_initializer:
            what = ", ".join(sorted(foreign)) or "functions or sparse weights"
            raise ValueError(f"its network has {what}, which cannot be exported")
        version = opsets.get("", opsets.get("ai.onnx", OPSET))
        if version < OPSET:
            try:
                model = version_converter.convert_version(model, OPSET)
            except Exception as error:  # of the classes that onnx makes up
                raise ValueError(
                    f"its network cannot be brought from opset {version} to {OPSET}: {error}"
                ) from error
        self._opset = max(self._opset, version)
        prefix = self._name("network") + "/"
        graph = onnx.compose.add_prefix(model, prefix).graph
        initial = {one.name for one in graph.initializer}
        (its_input,) = (one.name for one in graph.input if one.name not in initial)
        self._constants += graph.initializer
        for node in graph.node:
            node.input[:] = [image if name == its_input else name for name in node.input]
            self._nodes.append(node)
        return prefix + output

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
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=10)
        helper.set_model_props(model, noted)
        try:
            onnx.checker.check_model(model, full_check=True)
        except onnx.checker.ValidationError as error:
            raise ValueError(f"onnx refuses the file ({str(error).strip().splitlines()[0]})") from error
        return bytes(model.SerializeToString())

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"


def channels_first(graph: Graph, image: str, dtype: DTypeLike) -> str:
    """Return images (n, height, width, channels) as numbers (n, channels, height, width)."""
    return graph.node("Transpose", graph.cast(image, dtype), perm=[0, 3, 1, 2])
