from __future__ import annotations

import pickle
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from scipy.sparse import csr_array

from common.arrays import Labels, Pixels
from common.data.decode import PixelFormat
from common.data.images import CatalogueImages
from common.data.sources import open_labelled
from common.ridge.moments import (
    SHIFT,
    Moments,
    MomentsSum,
    fingerprint,
    flat_length,
    flatten,
    merge,
    total,
    training_moments,
    unflatten,
)
from common.ridge.tiles import BLOCK_ROWS
from tests.support.moments import assert_identical, moments_by_fold

RNG = np.random.default_rng(2)


def brute_force(pixels: Pixels, labels: Labels, n_classes: int) -> Moments:
    """Moments by their definition, in 64-bit integers; sparse, because most of MNIST is black."""
    x = csr_array(pixels.reshape(len(pixels), -1).astype(np.int64))
    y = np.where(labels[:, None] == np.arange(n_classes), 1, -1)
    sums = (x.sum(axis=0), y.sum(axis=0), (x.T @ x).toarray(), x.T @ y)
    assert all(s.dtype == np.int64 for s in sums)
    return Moments(len(pixels), *(s.astype(np.float64) for s in sums))


def images(n: int, n_classes: int = 4) -> tuple[Pixels, Labels]:
    return RNG.integers(0, 256, (n, 5, 4, 1), np.uint8), RNG.integers(0, n_classes, n)


@pytest.mark.parametrize("n", [1, 7, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS + 5])
def test_moments_are_exact(n: int) -> None:
    pixels, labels = images(n)
    assert_identical(Moments.of(pixels, labels, 6), brute_force(pixels, labels, 6))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255])
def test_moments_are_exact_where_float32_is_filled_to_its_last_bit(value: int) -> None:
    pixels = np.full((2 * BLOCK_ROWS, 3, 3, 1), value, np.uint8)
    pixels[:, 0, 0] = 0
    pixels[::2, 0, 1] = 255
    labels = np.zeros(len(pixels), np.int64)
    assert_identical(Moments.of(pixels, labels, 2), brute_force(pixels, labels, 2))


def test_a_block_is_as_large_as_float32_allows_and_no_larger() -> None:
    """Mostly 0 with some 1: products of 128·128 and 128·127, whose sums pass 2²⁴ at the first row too many."""
    assert BLOCK_ROWS * SHIFT**2 <= 2**24
    pixels = (RNG.random((6 * BLOCK_ROWS, 4, 4, 1)) < 0.3).astype(np.uint8)
    labels = RNG.integers(0, 2, len(pixels))
    assert_identical(Moments.of(pixels, labels, 2), brute_force(pixels, labels, 2))


@pytest.mark.slow
@pytest.mark.mnist
def test_moments_of_mnist_are_exact(data_root) -> None:
    loaded = CatalogueImages(open_labelled("mnist", data_root, PixelFormat()).train).load()
    assert_identical(Moments.of(loaded.pixels, loaded.labels, 10), brute_force(loaded.pixels, loaded.labels, 10))


@pytest.mark.parametrize("cuts", [(0, 2000), (0, 1, 2000), (0, 333, 334, 1500, 2000)])
def test_any_grouping_gives_the_same_bits(cuts: tuple[int, ...]) -> None:
    pixels, labels = images(2000)
    whole = Moments.of(pixels, labels, 4)
    parts = [Moments.of(pixels[a:b], labels[a:b], 4) for a, b in pairwise(cuts)]
    assert_identical(whole, reduce(add, parts[::-1]))


def test_subtracting_removes_exactly_and_order_does_not_matter() -> None:
    pixels, labels = images(3000)
    order = RNG.permutation(3000)
    whole = Moments.of(pixels, labels, 4)
    assert_identical(whole, Moments.of(pixels[order], labels[order], 4))
    assert_identical(whole - Moments.of(pixels[:700], labels[:700], 4), Moments.of(pixels[700:], labels[700:], 4))
    sums = MomentsSum(20, 4)
    for rows in np.array_split(order, 7):  # blocks that do not fill a product
        sums.add(pixels.reshape(3000, 20), labels, rows)
    assert_identical(whole, sums.result())


def test_moments_by_fold_are_those_of_each_fold_and_training_is_the_rest() -> None:
    pixels, labels = images(1500)
    folds = RNG.integers(-1, 3, 1500).astype(np.int16)
    moments = moments_by_fold(pixels, labels, folds, 4)
    assert sorted(moments) == [-1, 0, 1, 2]
    assert_identical(total(moments), Moments.of(pixels, labels, 4))
    for fold, others in training_moments(moments).items():
        assert fold >= 0
        assert_identical(others, Moments.of(pixels[folds != fold], labels[folds != fold], 4))


def test_merging_adds_fold_by_fold() -> None:
    pixels, labels = images(1200)
    folds = np.repeat(np.array([0, 1, 2], np.int16), 400)
    halves = [moments_by_fold(pixels[h], labels[h], folds[h], 4) for h in (slice(0, 500), slice(500, None))]
    merged, whole = merge(*halves), moments_by_fold(pixels, labels, folds, 4)
    assert sorted(merged) == sorted(whole)
    for fold in whole:
        assert_identical(merged[fold], whole[fold])


def test_a_pixel_that_never_changes_centres_to_exact_zeros() -> None:
    pixels, labels = images(1000)
    pixels[:, 2, 2] = 201
    gram, cross = Moments.of(pixels, labels, 4).centred()
    assert not gram[10].any()
    assert not gram[:, 10].any()
    assert not cross[10].any()


def test_moments_travel_between_processes_as_they_are() -> None:
    pixels, labels = images(900)
    moments = Moments.of(pixels, labels, 4)
    packed = pickle.dumps(moments)
    assert_identical(pickle.loads(packed), moments)  # noqa: S301
    assert len(packed) < 0.75 * len(pickle.dumps(vars(moments)))


def some_folds() -> dict[int, Moments]:
    pixels, labels = images(300)
    return moments_by_fold(pixels, labels, np.repeat([-1, 0, 2], 100).astype(np.int16), 4)


def test_flat_moments_add_up_as_moments_do() -> None:
    a, b = some_folds(), some_folds()
    d = len(a[0].sum_x)
    folds = [-1, 0, 1, 2]
    flat = flatten(a, folds, d, 4) + flatten(b, folds, d, 4)
    assert flat.shape == (4, flat_length(d, 4))
    assert not flat[2].any()
    found, expected = unflatten(flat, folds, d, 4), merge(a, b)
    assert sorted(found) == sorted(expected) == [-1, 0, 2]
    for fold, own in expected.items():
        assert found[fold].n == own.n
        assert_identical(found[fold], own)
    assert fingerprint(found) == fingerprint(expected)


def test_a_fingerprint_knows_every_bit() -> None:
    moments = some_folds()
    found = {fingerprint(moments)}
    moments[0].gram[1, 2] += 1
    found.add(fingerprint(moments))
    moments[0].gram[1, 2] -= 1
    moments[0].cross[3, 1] += 1
    found.add(fingerprint(moments))
    found.add(fingerprint({fold + 1: own for fold, own in moments.items()}))
    assert len(found) == 4


def test_class_counts_come_back_out_of_the_targets() -> None:
    pixels, labels = images(100)
    assert np.array_equal(Moments.of(pixels, labels, 4).class_counts, np.bincount(labels, minlength=4))


def test_moments_without_a_class_are_those_of_sums_that_never_knew_it() -> None:
    pixels, labels = images(300)
    pixels[:, 1] = 0  # features that are always 0, of which no sum may become −0
    kept, gone = labels != 2, np.flatnonzero(labels == 2)
    whole = Moments.of(pixels, labels, 4)
    rest = whole - Moments.of(pixels[gone], labels[gone], 4)
    assert whole.has_class(2)
    assert not rest.has_class(2)
    never = Moments.of(pixels[kept], np.array([0, 1, -1, 2])[labels[kept]], 3)
    found = rest.of_classes(np.array([0, 1, 3]))
    assert_identical(found, never)
    assert fingerprint({0: found}) == fingerprint({0: never})
    # as many images, but others
    others = pixels[np.flatnonzero(kept)[: len(gone)]]
    wrong = whole - Moments.of(others, labels[gone], 4)
    assert wrong.class_counts[2] == 0
    assert wrong.has_class(2)
