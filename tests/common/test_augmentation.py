"""Variants of images: what they are, and that they are summed, validated and removed with their images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.data.labelled import open_splits
from common.data.splits import ALWAYS_TRAINING
from common.features.augmentation import AS_IT_IS, KINDS, Augmentation
from common.ridge.fit import Problem
from common.ridge.moments import FoldSums, fingerprint, merge
from spark_jobs import serial
from tests.support.moments import moments_by_fold

RNG = np.random.default_rng(4)
BOTH = Augmentation(True, True)


def test_shifted_images_keep_their_edge() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    itself, up, down, left, right = (
        variant[0, :, :, 0].tolist() for variant in Augmentation(True).variants(image)
    )
    assert itself == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert up == [[4, 5, 6, 7], [8, 9, 10, 11], [8, 9, 10, 11]]
    assert down == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert left == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]
    assert right == [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]]


def test_mirrored_images_are_mirrored_once() -> None:
    image = RNG.integers(0, 256, (2, 3, 4, 3), np.uint8)
    itself, mirrored = Augmentation(flip=True).variants(image)
    assert np.array_equal(itself, image)
    assert np.array_equal(mirrored, image[:, :, ::-1])
    variants = list(BOTH.variants(image))
    assert len(variants) == BOTH.n_variants == 10
    assert len(np.unique(variants, axis=0)) == 10


@pytest.mark.parametrize("augmentation", [AS_IT_IS, Augmentation(True), Augmentation(flip=True), BOTH])
def test_moments_are_those_of_all_variants(augmentation: Augmentation) -> None:
    pixels = RNG.integers(0, 256, (90, 5, 4, 1), np.uint8)
    labels, folds = RNG.integers(0, 3, 90), RNG.integers(-1, 2, 90).astype(np.int16)
    whole = moments_by_fold(pixels, labels, folds, 3, augmentation=augmentation)
    repeated = np.concatenate(list(augmentation.variants(pixels)))
    n = augmentation.n_variants
    by_hand = moments_by_fold(repeated, np.tile(labels, n), np.tile(folds, n), 3)
    assert fingerprint(whole) == fingerprint(by_hand)
    halves = [
        moments_by_fold(pixels[h], labels[h], folds[h], 3, augmentation=augmentation)
        for h in (slice(40), slice(40, None))
    ]
    assert fingerprint(merge(*halves)) == fingerprint(whole)
    one = moments_by_fold(pixels[:1], labels[:1], folds[:1], 3, augmentation=augmentation)[int(folds[0])]
    rest = moments_by_fold(pixels[1:], labels[1:], folds[1:], 3, augmentation=augmentation)
    rest[int(folds[0])] = rest[int(folds[0])] + one - one
    assert fingerprint(rest) == fingerprint(
        moments_by_fold(pixels[1:], labels[1:], folds[1:], 3, augmentation=augmentation)
    )


def test_no_variant_validates() -> None:
    train, _ = open_splits("digits")
    plain, augmented = (
        serial.fit(Problem(train, augmentation=augmentation)) for augmentation in (AS_IT_IS, Augmentation(True))
    )
    assert augmented.n_fitted == plain.n_fitted == len(train)
    assert augmented.n_validation == plain.n_validation
    assert augmented.moments is not None
    assert augmented.moments[ALWAYS_TRAINING].n == 5 * (len(train) - plain.n_validation)
    problem = Problem(train, augmentation=BOTH)
    assert problem.n_fitted(replace(augmented.moments[0], n=10 * 7)) == 7


@pytest.mark.parametrize("text", ["none", *KINDS, ",".join(KINDS)])
def test_flags_are_what_they_say(text: str) -> None:
    assert str(Augmentation.parse(text)) == text
    assert str(Augmentation.parse(text.replace(",", ", "))) == text


@pytest.mark.parametrize("text", ["", "flips", "shift,", "shift flip", "none,flip", "both"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is none of shift, flip"):
        Augmentation.parse(text)


def test_sums_take_variants_of_each_block() -> None:
    pixels = RNG.integers(0, 256, (40, 4, 4, 1), np.uint8)
    labels, folds = np.zeros(40, np.int64), np.zeros(40, np.int16)
    sums = FoldSums(1, augmentation=BOTH)
    for start in range(0, 40, 7):
        sums.add(pixels[start : start + 7], labels[start : start + 7], folds[start : start + 7])
    assert fingerprint(sums.result()) == fingerprint(moments_by_fold(pixels, labels, folds, 1, augmentation=BOTH))
