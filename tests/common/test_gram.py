from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from common.ridge.gram import BLOCK_ROWS, BlasProduct, Tile, TiledProduct, even_tile
from common.ridge.moments import FoldSums, fingerprint

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("d", [1, 5, 64, 97])
@pytest.mark.parametrize("columns", [1, 7, 32, 97, 200])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_tiles_add_up_to_the_whole_product(d: int, columns: int, threads: int) -> None:
    product = TiledProduct(d, Tile(300, columns), threads)
    gram = np.zeros((d, d))
    expected = np.zeros((d, d))
    for rows in (300, 300, 11):
        z = RNG.integers(-128, 128, (rows, d)).astype(np.float32)
        product.add(z, gram)
        expected += z.astype(np.float64).T @ z
    product.complete(gram)
    assert np.array_equal(gram, expected)


@pytest.mark.parametrize("tile", [Tile(BLOCK_ROWS, 20), Tile(100, 33), Tile(1, 1)])
def test_moments_are_the_same_bits_whatever_the_product(tile: Tile) -> None:
    pixels = RNG.integers(0, 256, (2500, 6, 6, 1), np.uint8)
    labels, folds = RNG.integers(0, 3, 2500), RNG.integers(-1, 2, 2500).astype(np.int16)
    found = []
    for product in (BlasProduct, partial(TiledProduct, tile=tile, threads=3)):
        sums = FoldSums(3, product=product)
        sums.add(pixels, labels, folds)
        found.append(fingerprint(sums.result()))
    assert found[0] == found[1]


@pytest.mark.parametrize("rows", [0, BLOCK_ROWS + 1])
def test_blocks_that_would_not_be_exact_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="would not be exact"):
        TiledProduct(10, Tile(rows, 5), 1)


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_threads_get_even_shares(threads: int) -> None:
    """With as many stripes as threads, symmetric tiles being half the work, the shares are exactly even."""
    product = TiledProduct(100 * threads, even_tile(100 * threads, threads), threads)
    work = [sum(0.5 if i is j else 1 for i, j in share) for share in product._shares]
    assert work == [threads / 2] * threads
