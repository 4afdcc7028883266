from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from common.ridge import cuda, gram, tiles
from common.ridge.cuda import TorchProduct, gpu
from common.ridge.gram import (
    BlasProduct,
    Int8Product,
    Tile,
    TiledProduct,
    even_tile,
)
from common.ridge.moments import FoldSums, fingerprint
from common.ridge.tiles import (
    BLOCK_ROWS,
    MOST_INT8_ROWS,
    BlasTiles,
    Int8Tiles,
    TileProduct,
    Tiling,
    best_tile_product,
)

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("d", [1, 5, 64, 97])
@pytest.mark.parametrize("columns", [1, 7, 32, 97, 200])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_tiles_add_up_to_the_whole_product(d: int, columns: int, threads: int) -> None:
    product = TiledProduct(d, Tile(300, columns), threads)
    total = np.zeros((d, d))
    expected = np.zeros((d, d))
    for rows in (300, 300, 11):
        z = RNG.integers(-128, 128, (rows, d)).astype(np.float32)
        product.add(z, total)
        expected += z.astype(np.float64).T @ z
    product.complete(total)
    assert np.array_equal(total, expected)


@pytest.mark.parametrize("tile", [Tile(BLOCK_ROWS, 20), Tile(100, 33), Tile(1, 1)])
def test_moments_are_the_same_bits_whatever_the_product(tile: Tile) -> None:
    pixels = RNG.integers(0, 256, (1200, 6, 6, 1), np.uint8)
    labels, folds = RNG.integers(0, 3, 1200), RNG.integers(-1, 2, 1200).astype(np.int16)
    found = []
    for product in (BlasProduct, partial(TiledProduct, tile=tile, threads=3)):
        sums = FoldSums(3, product=product)
        sums.add(pixels, labels, folds)
        found.append(fingerprint(sums.result()))
    assert found[0] == found[1]


@pytest.mark.parametrize("device", sorted({"cpu", gpu() or "cpu"}))
@pytest.mark.parametrize("d", [1, 97, 1100])
def test_products_of_torch_add_up_to_the_whole_products_of_two_sums(device: str, d: int) -> None:
    product = TorchProduct(d, device)
    totals, expected = np.zeros((2, d, d)), np.zeros((2, d, d))
    held = list(totals)  # one view each for all calls, as sums have
    for rows, which in ((1024, 0), (11, 1), (1, 0), (300, 1)):
        z = RNG.integers(-128, 128, (rows, d)).astype(np.int8)
        product.add(z, held[which])
        expected[which] += z.astype(np.float64).T @ z
    for total in held:
        product.complete(total)
    assert np.array_equal(totals, expected)


@pytest.mark.parametrize("value", [-128, 127])
def test_products_of_torch_are_exact_at_the_extremes(value: int) -> None:
    product, gram = TorchProduct(40, gpu() or "cpu"), np.zeros((40, 40))
    product.add(np.full((product.rows, 40), value, np.int8), gram)
    product.complete(gram)
    assert (gram == product.rows * value**2).all()


def test_without_a_driver_no_process_imports_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "DRIVER", tmp_path / "none")
    cuda.gpu.cache_clear()
    assert cuda.gpu() is None
    cuda.gpu.cache_clear()


@pytest.mark.parametrize("d", [1, 5, 97, 513, 1100])
@pytest.mark.parametrize("threads", [1, 3])
def test_products_of_8_bits_add_up_to_the_whole_product(d: int, threads: int) -> None:
    product = Int8Product(d, threads)
    total, expected = np.zeros((d, d)), np.zeros((d, d))
    for rows in (product.rows, 11, 1):
        z = RNG.integers(-128, 128, (rows, d)).astype(np.int8)
        product.add(z, total)
        expected += z.astype(np.float64).T @ z
    product.complete(total)
    assert np.array_equal(total, expected)


@pytest.mark.parametrize("value", [-128, 127])
def test_products_of_8_bits_are_exact_at_the_largest_block_of_extremes(value: int) -> None:
    product = Int8Product(6, 1)
    product.rows = MOST_INT8_ROWS
    total = np.zeros((6, 6))
    product.add(np.full((MOST_INT8_ROWS, 6), value, np.int8), total)
    product.complete(total)
    assert (total == MOST_INT8_ROWS * value**2).all()


def test_moments_are_the_same_bits_by_8_bit_and_by_float32_products(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 256, (2500, 24, 23, 1), np.uint8)
    labels, folds = RNG.integers(0, 3, 2500), RNG.integers(-1, 2, 2500).astype(np.int16)

    def summed() -> tuple[frozenset[str], str]:
        sums = FoldSums(3)
        for start in range(0, 2500, 700):
            rows = slice(start, start + 700)
            sums.add(pixels[rows], labels[rows], folds[rows])
        return sums.products, fingerprint(sums.result())

    fast = summed()
    for module in (gram, tiles):
        monkeypatch.setattr(module, "int8_kernel", lambda: None)
    slow = summed()
    assert (fast[0], slow[0]) == ({Int8Product.name}, {BlasProduct.name})
    assert fast[1] == slow[1]
    with pytest.raises(ValueError, match="no exact product of 8-bit integers"):
        Int8Product(5)


@pytest.mark.parametrize(
    "product",
    [BlasTiles, *(partial(Int8Tiles, threads=threads) for threads in (1, 2, 3, 8, 50))],
    ids=["float32", *(f"8 bits, {threads} threads" for threads in (1, 2, 3, 8, 50))],
)
def test_any_tiles_of_a_product_are_those_of_the_whole(product: Callable[[Tiling], TileProduct]) -> None:
    tiling = Tiling(97, 20)
    chosen = product(tiling)
    own = {place: np.zeros(tiling.shape(place)) for place in tiling.lower()[::3]}
    expected = np.zeros((97, 97))
    for rows in (chosen.rows, 11):
        z = RNG.integers(-128, 128, (rows, 97)).astype(chosen.dtype)
        chosen.add(z, own)
        expected += z.astype(np.float64).T @ z
    for (i, j), tile in own.items():
        assert np.array_equal(tile, expected[tiling.stripe(i), tiling.stripe(j)])


def test_tiles_fall_back_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(best_tile_product(Tiling(9, 3), 1), Int8Tiles)
    monkeypatch.setattr(tiles, "int8_kernel", lambda: None)
    assert isinstance(best_tile_product(Tiling(9, 3), 1), BlasTiles)


@pytest.mark.parametrize("rows", [0, BLOCK_ROWS + 1])
def test_blocks_that_would_not_be_exact_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="would not be exact"):
        TiledProduct(10, Tile(rows, 5), 1)


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_threads_get_even_shares(threads: int) -> None:
    """With as many stripes as threads, symmetric tiles being half the work, the shares are exactly even."""
    product = TiledProduct(100 * threads, even_tile(100 * threads, threads), threads)
    work = [sum(0.5 if i == j else 1 for i, j in share) for share in product._shares]
    assert work == [threads / 2] * threads
