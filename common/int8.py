"""Exact products of 8-bit integers by onnxruntime, which uses instructions for them (VNNI and the like).

It takes 20 MB, and is imported in a tenth of a second. Where it is missing, callers multiply in float32 instead,
which is as exact and takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from common.onnx_files import bytes_field, number_field, text_field

SHIFT = 128
"""Subtracted from the left factor."""

NAME = "onnxruntime MatMulInteger"

UINT8, INT8, INT32 = 2, 3, 6
"""Numbers of types in ONNX."""

MOST_INNER = 131_071
"""Products of −128 to 127 whose sum fits int32: fewer than 2³¹/128²."""


class Int8Kernel:
    """Multiplies matrices of 8-bit integers in the thread that calls; several threads may call it at once.

    Args:
        signed: whether onnxruntime gets the right factor as int8, or shifted to uint8. Without VNNI, x86 adds up
            pairs of products of uint8 and int8 in 16 bits, which overflow, and those of two uint8 in 32.

    Raises:
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, signed: bool = True) -> None:
        import onnxruntime

        self.signed = signed
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._product, self._transpose = (
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for model in (matmul_integer_model(signed), transpose_model())
        )

    def multiply(
        self, a: NDArray[np.uint8], b: NDArray[np.int8], out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """Return (a − SHIFT)·b of uint8 (m, k) and int8 (k, n), with k up to MOST_INNER.

        Args:
            a: the left factor.
            b: the right factor.
            out: contiguous int32 (m, n), which the product is written to; None for a new array.
        """
        if out is None:
            out = np.empty((len(a), b.shape[1]), np.int32)
        if not out.size or not len(b):
            out[...] = 0
            return out
        right: NDArray[np.integer] = np.ascontiguousarray(b)
        if not self.signed:
            right = right.view(np.uint8) ^ np.uint8(SHIFT)
        factors = {"a": np.ascontiguousarray(a), "b": right}
        # by address: results of the plain call are copied once more, into memory that the system clears first
        bound = self._product.io_binding()
        for name, factor in factors.items():
            bound.bind_input(name, "cpu", 0, factor.dtype, factor.shape, factor.ctypes.data)
        bound.bind_output("y", "cpu", 0, np.int32, out.shape, out.ctypes.data)
        self._product.run_with_iobinding(bound)
        return out

    def transpose(self, z: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Return zᵀ + SHIFT of int8 (n, m), a left factor: uint8 (m, n).

        NumPy takes twice as long, and keeps other threads waiting.
        """
        (left,) = self._transpose.run(None, {"a": z})
        shifted: NDArray[np.uint8] = left.view(np.uint8)
        shifted ^= np.uint8(SHIFT)
        return shifted


@cache
def int8_kernel() -> Int8Kernel | None:
    """Return the fastest kernel that is exact on this processor; None without onnxruntime, or if none is exact."""
    for signed in (True, False):
        try:
            kernel = Int8Kernel(signed)
        except ImportError:
            return None
        if _is_exact(kernel):
            return kernel
    return None


def _is_exact(kernel: Int8Kernel) -> bool:
    # sums of pairs of products that 16 bits cannot hold, in shapes with and without a remainder
    for m, k, n in ((64, 256, 64), (3, 67, 5)):
        for a, b in ((255, -128), (0, -128), (255, 127), (0, 127)):
            product = kernel.multiply(np.full((m, k), a, np.uint8), np.full((k, n), b, np.int8))
            if not (product == k * (a - SHIFT) * b).all():
                return False
    return True


def matmul_integer_model(signed: bool) -> bytes:
    """Return an ONNX model of one node: y = (a − SHIFT)·b, int32, or y = (a − SHIFT)·(b − SHIFT) of unsigned b."""
    constant = number_field(2, UINT8) + bytes_field(9, bytes([SHIFT])) + text_field(8, "zero")
    inputs = _matrix("a", UINT8), _matrix("b", INT8 if signed else UINT8)
    names = ["a", "b", "zero"] if signed else ["a", "b", "zero", "zero"]
    return _model("MatMulInteger", names, inputs, _matrix("y", INT32), bytes_field(5, constant))


def transpose_model() -> bytes:
    """Return an ONNX model of one node: y = aᵀ, int8."""
    return _model("Transpose", ["a"], [_matrix("a", INT8)], _matrix("y", INT8))


def _model(
    operator: str, names: Sequence[str], inputs: Sequence[bytes], y: bytes, constants: bytes = b""
) -> bytes:
    """Encode a model of one node as protocol buffers.

    Written out here, because the package onnx is as large as the runtime and workers need nothing else of it. The
    numbers of fields are those of onnx.proto.
    """
    node = b"".join(text_field(1, name) for name in names) + text_field(2, "y") + text_field(4, operator)
    graph = bytes_field(1, node) + text_field(2, "product") + constants
    graph += b"".join(bytes_field(11, matrix) for matrix in inputs) + bytes_field(12, y)
    opset = text_field(1, "") + number_field(2, 10)  # the first that has MatMulInteger
    version = number_field(1, 5)  # of the format, the oldest with that opset
    return version + bytes_field(7, graph) + bytes_field(8, opset)


def _matrix(name: str, element: int) -> bytes:
    """Encode a ValueInfoProto of a matrix of any size."""
    shape = bytes_field(1, b"") * 2
    tensor = number_field(1, element) + bytes_field(2, shape)
    return text_field(1, name) + bytes_field(2, bytes_field(1, tensor))
