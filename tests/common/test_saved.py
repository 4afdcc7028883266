from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data.decode import PixelFormat
from common.data.splits import FoldRule
from common.errors import InputError, RunError
from common.ridge.moments import FoldMoments, fingerprint
from common.ridge.moments_file import Basis, SavedMoments, combined
from tests.support.moments import BASIS, assert_identical, images, moments, moments_by_fold


def assert_same(a: FoldMoments, b: FoldMoments) -> None:
    assert sorted(a) == sorted(b)
    for fold in a:
        assert_identical(a[fold], b[fold])


def test_saved_moments_load_to_the_last_bit(tmp_path: Path) -> None:
    dropped = {"żółw": frozenset({"a"})}
    saved = SavedMoments(BASIS, moments(500), frozenset({"a", "b"}), frozenset({"x.png"}), dropped)
    saved.save(tmp_path / "m.npz")
    again = SavedMoments.load(tmp_path / "m.npz")
    assert again.basis == BASIS
    assert again.identities == {"a", "b"}
    assert again.forgotten == {"x.png"}
    assert again.dropped == dropped
    assert_same(again.moments, saved.moments)
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_old_and_new_are_all_at_once_and_less_the_new_they_are_the_old(tmp_path: Path) -> None:
    pixels, labels, folds = images(900)
    whole = moments_by_fold(pixels, labels, folds, 3)
    old = moments_by_fold(pixels[:600], labels[:600], folds[:600], 3)
    new = moments_by_fold(pixels[600:], labels[600:], folds[600:], 3)
    added = SavedMoments(BASIS, old, frozenset())
    assert_same(combined(new, [added], []), whole)
    assert_same(
        combined({}, [SavedMoments(BASIS, whole, frozenset())], [(Path("n"), replace(added, moments=new))]), old
    )


def test_what_is_subtracted_to_the_last_image_is_gone() -> None:
    saved = SavedMoments(BASIS, moments(80), frozenset())
    assert combined({}, [saved], [(Path("m.npz"), saved)]) == {}


def test_what_was_never_added_cannot_be_subtracted() -> None:
    few, many = moments(50), moments(500)
    with pytest.raises(InputError, match="not among those"):
        combined(few, [], [(Path("gone.npz"), SavedMoments(BASIS, many, frozenset()))])
    with pytest.raises(InputError, match="not among those"):
        combined({0: few[0]}, [], [(Path("gone.npz"), SavedMoments(BASIS, {3: few[0]}, frozenset()))])


def test_moments_over_more_classes_are_those_of_sums_that_knew_them() -> None:
    pixels, labels, folds = images(200)
    pixels[:, 0] = 0  # a feature that is always 0, of which −Σx must not become −0
    more = replace(BASIS, class_names=("ahorn", "żółw", "ash", "cedar", "beech"))
    positions = np.array([2, 4, 1])
    saved = SavedMoments(BASIS, moments_by_fold(pixels, labels, folds, 3), frozenset({"a"}))
    saved.basis.check_equal(Path("m.npz"), more)
    found = saved.over(more)
    assert found.basis == more
    assert found.identities == saved.identities
    for fold, truth in moments_by_fold(pixels, positions[labels], folds, 5).items():
        assert_identical(found.moments[fold], truth)
        assert fingerprint({fold: found.moments[fold]}) == fingerprint({fold: truth})
    assert saved.over(BASIS) is saved


def test_classes_that_share_a_name_are_those_of_the_same_list() -> None:
    twice = replace(BASIS, class_names=("ash", "ash", "beech"))
    twice.check_equal(Path("m.npz"), twice)
    assert twice.positions_in(twice).tolist() == [0, 1, 2]
    with_ids = replace(twice, class_ids=("1", "2", "3"))
    twice.check_equal(Path("m.npz"), with_ids)  # files of earlier versions have no ids


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(BASIS, shape=(4, 5, 1)), "shape"),
        (replace(BASIS, pixel_format=PixelFormat((5, 4), binarize=0.5)), "5x4 grey"),
        (replace(BASIS, class_names=("ash", "beech")), "3 classes, of which this run has not 'żółw'"),
        (replace(BASIS, class_names=("ash", "oak", "żółw")), "3 classes, of which this run has not 'beech'"),
        (replace(BASIS, rule=FoldRule(5, 0)), "--validation 0.2"),
        (replace(BASIS, split="--seed 1"), "splits by --seed 0, and this run has --seed 1"),
    ],
)
def test_moments_of_another_kind_are_refused_in_one_line(other: Basis, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        BASIS.check_equal(Path("m.npz"), other)
    assert "\n" not in str(caught.value)


def rewrite(path: Path, **changes: object) -> None:
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez(path, **{**kept, **changes})


def other_scale(path: Path) -> None:
    with np.load(path) as arrays:
        described = json.loads(str(arrays["described"]))
    rewrite(path, described=np.array(json.dumps({**described, "full_intensity": 1.0})))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "no moments can be read"),
        (lambda path: np.savez(path, weights=np.zeros(3)), "no moments can be read"),
        (lambda path: rewrite(path, described=np.array([{}], dtype=object)), "no moments can be read"),
        (lambda path: rewrite(path, described=np.array('{"format": "other"}')), "format 'other'"),
        (other_scale, "intensities up to 1, not 255"),
        (lambda path: rewrite(path, **{"0.gram": np.zeros(7)}), "gram is"),
        (lambda path: rewrite(path, **{"0.sum_x": np.full(20, 0.5)}), "no sums of pixels"),
        (lambda path: rewrite(path, **{"0.cross": np.full((20, 3), np.inf)}), "no sums of pixels"),
    ],
)
def test_damaged_moments_are_refused_in_one_line(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "m.npz"
    SavedMoments(BASIS, moments(100), frozenset()).save(path)
    damage(path)
    with pytest.raises(InputError, match=message) as caught:
        SavedMoments.load(path)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        SavedMoments(BASIS, moments(10), frozenset()).save(tmp_path / "nowhere" / "m.npz")
