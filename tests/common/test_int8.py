"""Products of 8-bit integers: exact on every processor, from several threads, and refused where they are not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common import onnx_files
from common.features import dense, patches
from common.features.dense import DenseProduct
from common.features.patches import FEWEST_INT8_FILTERS, PatchesRecipe
from common.int8 import MOST_INNER, SHIFT, Int8Kernel, int8_kernel

RNG = np.random.default_rng(8)


@pytest.fixture
def anew() -> Iterator[None]:
    int8_kernel.cache_clear()
    yield
    int8_kernel.cache_clear()


@pytest.fixture(params=["fastest", "unsigned"])
def kernel(request: pytest.FixtureRequest) -> Int8Kernel:
    """Each kernel: the one that this processor gets, and the one whose right factor is unsigned."""
    found = int8_kernel() if request.param == "fastest" else Int8Kernel(signed=False)
    assert found is not None
    return found


def products(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray((a.astype(np.int64) - SHIFT) @ b.astype(np.int64))


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 5, 7), (64, 784, 10), (130, 1025, 33), (0, 4, 4)])
def test_products_are_those_of_whole_numbers(kernel: Int8Kernel, m: int, k: int, n: int) -> None:
    a, b = RNG.integers(0, 256, (m, k), np.uint8), RNG.integers(-128, 128, (k, n)).astype(np.int8)
    found = kernel.multiply(a, b)
    assert found.dtype == np.int32
    assert np.array_equal(found, products(a, b))


def test_products_are_written_where_they_are_wanted_and_factors_may_be_views(kernel: Int8Kernel) -> None:
    a, b = RNG.integers(0, 256, (9, 40), np.uint8)[::2, ::3], RNG.integers(-128, 128, (7, 14)).astype(np.int8).T
    out = np.full((5, 7), 9, np.int32)
    assert kernel.multiply(a, b, out) is out
    assert np.array_equal(out, products(a, b))
    assert not kernel.multiply(np.empty((2, 0), np.uint8), np.empty((0, 3), np.int8)).any()


@pytest.mark.parametrize("shape", [(1, 1), (7, 130), (1025, 33), (0, 4)])
def test_left_factors_are_transposed_and_shifted(shape: tuple[int, int]) -> None:
    z = RNG.integers(-128, 128, shape).astype(np.int8)
    left = Int8Kernel().transpose(z)
    assert left.dtype == np.uint8
    assert np.array_equal(left, z.T.astype(np.int64) + SHIFT)


@pytest.mark.parametrize("a", [0, 255])
@pytest.mark.parametrize("b", [-128, 127])
def test_the_largest_sums_fit(kernel: Int8Kernel, a: int, b: int) -> None:
    found = kernel.multiply(np.full((2, MOST_INNER), a, np.uint8), np.full((MOST_INNER, 3), b, np.int8))
    assert (found == MOST_INNER * (a - SHIFT) * b).all()


def test_threads_share_a_kernel(kernel: Int8Kernel) -> None:
    pairs = [
        (RNG.integers(0, 256, (40, 90), np.uint8), RNG.integers(-128, 128, (90, 30)).astype(np.int8))
        for _ in range(60)
    ]
    with ThreadPoolExecutor(4) as pool:
        for (a, b), found in zip(pairs, pool.map(lambda pair: kernel.multiply(*pair), pairs), strict=True):
            assert np.array_equal(found, products(a, b))


def test_without_the_library_there_is_no_kernel(anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert int8_kernel() is None


@pytest.mark.parametrize("unsigned_too", [False, True])
def test_products_that_are_added_up_in_16_bits_are_refused(
    anew: None, monkeypatch: pytest.MonkeyPatch, unsigned_too: bool
) -> None:
    """As vpmaddubsw does: products of bytes are added in pairs, and each sum is cut to 16 bits."""
    exact = Int8Kernel.multiply

    def saturating(kernel: Int8Kernel, a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int64]:
        if not (kernel.signed or unsigned_too):
            return exact(kernel, a, b)
        pairs = [
            np.clip(a[:, i : i + 2].astype(np.int64) @ b[i : i + 2].astype(np.int64), -(2**15), 2**15 - 1)
            for i in range(0, len(b), 2)
        ]
        return np.asarray(sum(pairs) - SHIFT * b.sum(axis=0, dtype=np.int64))

    monkeypatch.setattr(Int8Kernel, "multiply", saturating)
    chosen = int8_kernel()
    if unsigned_too:
        assert chosen is None
    else:
        assert chosen is not None
        assert not chosen.signed


@pytest.mark.parametrize("shape", [(12, 11, 1), (9, 10, 3)])
@pytest.mark.parametrize("mirror", [True, False])
def test_filters_respond_alike_with_and_without_the_kernel(
    shape: tuple[int, int, int], mirror: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = RNG.integers(0, 256, (37, *shape), np.uint8)
    features = PatchesRecipe(FEWEST_INT8_FILTERS + 2, cells=2, mirror=mirror).learn(pixels, 0)
    fast = features.pooled(pixels)
    monkeypatch.setattr(patches, "int8_kernel", lambda: None)
    assert np.array_equal(fast, features.pooled(pixels))


@pytest.mark.parametrize("width", [700, 2100])
def test_stages_multiply_alike_with_and_without_the_kernel(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = RNG.integers(-128, 128, (400, width)).astype(np.int8)
    x = RNG.integers(0, 256, (33, width), np.uint8)
    x[0], x[1] = 0, 255
    fast = DenseProduct(weights)
    monkeypatch.setattr(dense, "int8_kernel", lambda: None)
    slow = DenseProduct(weights)
    assert fast._int8 is not None
    assert slow._int8 is None
    assert np.array_equal(fast(x), slow(x))
    assert np.array_equal(fast(x), products(x, weights.T))
    with pytest.raises(ValueError, match="allowed in front of a stage"):
        DenseProduct(np.zeros((1, MOST_INNER + 1), np.int8))


def test_the_model_is_encoded_as_protocol_buffers_are() -> None:
    assert onnx_files._varint(300) == bytes([0xAC, 0x02])  # the example of their documentation
    assert onnx_files.bytes_field(2, b"testing") == bytes([0x12, 7]) + b"testing"
    assert onnx_files.number_field(1, 5) == bytes([8, 5])
