"""Small networks in the ONNX format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

WIDTH = 12


def embedder(
    path: Path,
    size: Sequence[int | str] = ("n", 3, 24, 36),
    *,
    channels_last: bool = False,
    signed: bool = False,
    inputs: int = 1,
    element: int = TensorProto.FLOAT,
    rows: bool = True,
    external: bool = False,
    dense: bool = False,
    fragile: bool = False,
    work: int = 0,
) -> Path:
    """Write a network of one convolution, pooled over the image: WIDTH numbers per image.

    Args:
        path: the file.
        size: lengths of its input; names stand for any length.
        channels_last: whether its input is (n, height, width, channels).
        signed: whether its numbers may be negative.
        inputs: how many inputs it has.
        element: the type of its input.
        rows: False for an output that is no row of numbers per image.
        external: whether its weights are in a file of their own.
        dense: whether two dense layers take the place of the pooling.
        fragile: whether the embeddings of white images are NaN.
        work: how many convolutions to add, each of which takes some milliseconds per image.
    """
    rng = np.random.default_rng(4)
    channels = size[3] if channels_last else size[1]
    weights = rng.normal(size=(WIDTH, int(channels), 5, 5)).astype(np.float32)
    nodes, last = [], "images0"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        last = "first"
    if element != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [last], ["floats"], to=TensorProto.FLOAT))
        last = "floats"
    nodes.append(helper.make_node("Conv", [last, "weights"], ["maps"], strides=[2, 2]))
    if not signed:
        nodes.append(helper.make_node("Relu", ["maps"], ["positive"]))
    pooled = "GlobalAveragePool" if rows else "Identity"
    nodes.append(helper.make_node(pooled, ["maps" if signed else "positive"], ["embedding"]))
    initial = [numpy_helper.from_array(weights, "weights")]
    if dense:
        n_maps = WIDTH * 10 * 16  # of images of 24×36
        for name, shape in (("first", (n_maps, 64)), ("second", (64, WIDTH))):
            initial.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
        nodes.pop()
        nodes += [
            helper.make_node("Flatten", ["positive"], ["flat"]),
            helper.make_node("Gemm", ["flat", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["rectified"]),
            helper.make_node("Gemm", ["rectified", "second"], ["embedding"]),
        ]
    if fragile:  # the root of something negative, where even the darkest number is nearly that of white
        nodes[-1].output[0] = "sound"
        initial.append(numpy_helper.from_array(np.array(2.24, np.float32), "white"))
        nodes += [
            helper.make_node("ReduceMin", ["images0"], ["darkest"], axes=[1, 2, 3]),
            helper.make_node("Sub", ["white", "darkest"], ["difference"]),
            helper.make_node("Sqrt", ["difference"], ["root"]),
            helper.make_node("Add", ["sound", "root"], ["embedding"]),
        ]
    if work:
        nodes[-1].output[0] = "quick"
        last = "images0"
        for i in range(work + 1):
            shape = (64, 64 if i else int(channels), 5, 5)
            slow = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
            initial.append(numpy_helper.from_array(slow, f"slow{i}"))
            nodes.append(helper.make_node("Conv", [last, f"slow{i}"], [f"work{i}"], pads=[2, 2, 2, 2]))
            last = f"work{i}"
        nodes.append(helper.make_node("ReduceMean", [last], ["mean"], axes=[1, 2, 3]))
        nodes.append(helper.make_node("Add", ["quick", "mean"], ["embedding"]))
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info(f"images{i}", element, list(size)) for i in range(inputs)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
        initial,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_model(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path
