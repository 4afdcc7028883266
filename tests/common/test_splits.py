from __future__ import annotations

import numpy as np
import pytest

from common.data.splits import (
    ALWAYS_TRAINING,
    hold_out,
    k_folds,
    shard,
    stratified_limit,
    stratified_order,
    validation_fold,
)

LABELS = np.random.default_rng(0).choice(7, 1000, p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.015, 0.005])


def test_the_order_is_a_permutation_that_the_seed_decides() -> None:
    order = stratified_order(LABELS, 3, "limit")
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(order, stratified_order(LABELS, 3, "limit"))
    assert not np.array_equal(order, stratified_order(LABELS, 4, "limit"))
    assert not np.array_equal(order, stratified_order(LABELS, 3, "test"))


@pytest.mark.parametrize("n", [1, 10, 137, 500, 999])
def test_every_prefix_holds_each_class_in_its_share_give_or_take_one(n: int) -> None:
    share = np.bincount(LABELS, minlength=7) / 1000
    taken = np.bincount(LABELS[stratified_limit(LABELS, n, 0)], minlength=7)
    assert taken.sum() == n
    assert np.abs(taken - n * share).max() <= 2  # one from the class's own rounding, one from the cut


def test_a_larger_limit_includes_a_smaller_one() -> None:
    assert set(stratified_limit(LABELS, 100, 5)) < set(stratified_limit(LABELS, 200, 5))


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.999])
def test_held_out_and_rest_are_all_images_and_neither_is_empty(fraction: float) -> None:
    rest, held_out = hold_out(LABELS, fraction, 0, "test")
    assert np.array_equal(np.sort(np.concatenate([rest, held_out])), np.arange(1000))
    assert len(rest) >= 1
    assert len(held_out) == max(1, round(1000 * fraction))


def test_folds_are_stratified_and_of_even_size() -> None:
    folds = k_folds(LABELS, 5, 0)
    assert np.bincount(folds).tolist() == [200] * 5
    for fold in range(5):
        counts = np.bincount(LABELS[folds == fold], minlength=7)
        assert np.abs(counts - np.bincount(LABELS, minlength=7) / 5).max() <= 2


def test_a_hold_out_is_one_fold_and_images_that_validate_nothing() -> None:
    folds = validation_fold(LABELS, 0.2, 0)
    assert set(np.unique(folds)) == {ALWAYS_TRAINING, 0}
    assert (folds == 0).sum() == 200


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 4), (10, 3), (12, 4), (7, 7), (1000, 64)])
def test_shards_cover_everything_once_and_evenly(n: int, size: int) -> None:
    parts = [range(n)[shard(n, rank, size)] for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(n))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
