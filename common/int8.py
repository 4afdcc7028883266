"""Exact products of 8-bit integers, by processor instructions made for them (VNNI and the like).

onnxruntime has such products, takes 20 MB, and is imported in a tenth of a second. Where it is missing, or adds up
in 16 bits as on older processors, callers multiply in float32 instead, which is as exact and takes longer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHIFT = 128
"""Subtracted from the left factor."""

NAME = "onnxruntime MatMulInteger"

MOST_INNER = 131_071
"""Products of −128 to 127 whose sum fits int32: fewer than 2³¹/128²."""


class Int8Kernel:
    """Multiplies matrices of 8-bit integers in the thread that calls; several threads may call it at once.

    Raises:
        ImportError: onnxruntime is not installed.
    """

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            matmul_integer_model(), options, providers=["CPUExecutionProvider"]
        )

    def multiply(self, a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int32]:
        """Return (a − SHIFT)·b of uint8 (m, k) and int8 (k, n), with k up to MOST_INNER: int32 (m, n)."""
        (product,) = self._session.run(None, {"a": a, "b": b})
        return product  # type: ignore[no-any-return]


@cache
def int8_kernel() -> Int8Kernel | None:
    """Return the kernel of this process; None if there is none, or if it is not exact on this processor."""
    try:
        kernel = Int8Kernel()
    except ImportError:
        return None
    # sums of pairs of products that 16 bits cannot hold, in shapes with and without a remainder
    for m, k, n in ((64, 256, 64), (3, 67, 5)):
        for a, b in ((255, -128), (0, -128), (255, 127), (0, 127)):
            product = kernel.multiply(np.full((m, k), a, np.uint8), np.full((k, n), b, np.int8))
            if not (product == k * (a - SHIFT) * b).all():
                return None
    return kernel


def matmul_integer_model() -> bytes:
    """Return an ONNX model of one node: y = (a − SHIFT)·b, in the encoding of protocol buffers.

    Written out here, because the package onnx is as large as the runtime and workers need nothing else of it. The
    numbers of fields are those of onnx.proto.
    """
    uint8, int8, int32 = 2, 3, 6
    node = b"".join(_text(1, name) for name in ("a", "b", "zero")) + _text(2, "y") + _text(4, "MatMulInteger")
    zero = _number(2, uint8) + _bytes(9, bytes([SHIFT])) + _text(8, "zero")
    graph = _bytes(1, node) + _text(2, "product") + _bytes(5, zero)
    graph += _bytes(11, _matrix("a", uint8)) + _bytes(11, _matrix("b", int8)) + _bytes(12, _matrix("y", int32))
    opset = _text(1, "") + _number(2, 10)  # the first that has MatMulInteger
    return _number(1, 5) + _bytes(7, graph) + _bytes(8, opset)  # version 5 of the format, the oldest with opset 10


def _matrix(name: str, element: int) -> bytes:
    """Encode a ValueInfoProto of a matrix of any size."""
    shape = _bytes(1, b"") * 2
    tensor = _number(1, element) + _bytes(2, shape)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    """Encode a field of a small number."""
    return bytes([field << 3, value])


def _bytes(field: int, value: bytes) -> bytes:
    """Encode a field of bytes."""
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
