"""Labelled images: open a source, split and limit it, and warn about oddities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.arrays import Folds
from common.console import Console
from common.data.catalogue import Catalogue, Skipped
from common.data.decode import AS_THEY_ARE, PixelFormat
from common.data.images import CatalogueImages, Images
from common.data.joined import join
from common.data.sources import TABLE, check_classes, check_groups, open_labelled
from common.data.sources.finding import ignored_files
from common.data.sources.label_file import LabelFile
from common.data.sources.source import Splits
from common.data.splits import FoldRule, hold_out, stratified_limit
from common.errors import InputError

HOLD_OUT = FoldRule(None, 0.2)
DATA_ROOT = Path("data")

MOST_LISTED = 20
"""Skipped images that an error lists, at most."""


def open_splits(
    spec: str,
    rule: FoldRule = HOLD_OUT,
    pixel_format: PixelFormat = AS_THEY_ARE,
    data_root: Path = DATA_ROOT,
    *,
    labels: LabelFile | None = None,
    test: float = 0.2,
    test_data: str | None = None,
    test_labels: LabelFile | None = None,
    validation_data: str | None = None,
    validation_labels: LabelFile | None = None,
    seed: int = 0,
    limit: int | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> tuple[CatalogueImages, CatalogueImages]:
    """Open a source that lists all names and labels, and split it, stratified and seeded.

    Args:
        spec: the source, as --data names it: "digits", "folder:PATH", …
        rule: how images are held out for validation, if no source has images for it.
        pixel_format: what every image is decoded into.
        data_root: the folder in which named sources live.
        labels: a file with the classes of the images of a folder; None if the source has them.
        test: the fraction of images held out for testing, if the source has no test set.
        test_data: another source, whose test set is used, or all of its images if it has none.
        test_labels: as `labels`, for `test_data`.
        validation_data: another source, whose images for validation are used, or its test set if it has none of
            these, or all of its images.
        validation_labels: as `labels`, for `validation_data`.
        seed: the seed of all shuffles.
        limit: the number of training images to use; None for all.
        say: called with each line for people about how the source was read.

    Returns:
        Training images, with the fold that each validates, and test images.

    Raises:
        InputError: there is no such source, or too few images; or images for validation are named beside K folds.
    """
    splits = open_labelled(spec, data_root, pixel_format, labels)
    n_said = _say_all(splits.notes, say)
    check_classes(spec, splits.train.class_names)
    others = {"validation": (validation_data, validation_labels), "test": (test_data, test_labels)}
    for split, (other, its_labels) in others.items():
        if other is not None:
            _check_other(split, other, spec, rule)
            found = _open_other(split, other, data_root, pixel_format, its_labels)
            if test_data == validation_data and (found.validation is None or found.test is None):
                raise InputError(f"--test-data {other}: the images of --validation-data too; name others")
            splits = _with_other(splits, split, spec, other, found)
    check_groups(spec, splits)
    train, tested, validation = splits.train, splits.test, splits.validation
    _say_all([*splits.notes[n_said:], *([ignored_files(train.ignored)] if train.ignored else [])], say)
    if tested is None:
        parts = hold_out(train.labels, test, seed, "test", train.groups)
        train, tested = train.take(parts.rest), train.take(parts.held_out)
    train = train if limit is None else train.take(stratified_limit(train.labels, limit, seed))
    learnt = _folded(train, validation, rule, seed, elsewhere=validation_data is not None)
    return CatalogueImages(*learnt, pixel_format), CatalogueImages(tested, pixel_format=pixel_format)


def _say_all(notes: Sequence[str], say: Callable[[str], object]) -> int:
    """Say each line, and return their number."""
    for note in notes:
        say(note)
    return len(notes)


def _folded(
    train: Catalogue, validation: Catalogue | None, rule: FoldRule, seed: int, elsewhere: bool
) -> tuple[Catalogue, Folds]:
    """Return training images followed by those for validation, and the folds of all.

    Args:
        train: the training images.
        validation: the images for validation that a source has; None to hold out training images.
        rule: how images are held out.
        seed: the seed of that.
        elsewhere: True if `validation` is of another source than `train`.

    Raises:
        InputError: there are too few images.
    """
    n_train = len(train)
    n_learnt = n_train + (len(validation) if validation is not None and rule.k else 0)
    if n_learnt < max(2, rule.k or 0):
        raise InputError(f"{n_learnt} training images are too few to hold any out for validation")
    if validation is None:
        return train, rule.of_labels(train.labels, seed, train.groups)
    images = join(train, validation, "validation: ") if elsewhere else train.followed_by(validation)
    return images, rule.of_split(n_train, images.labels, seed, images.groups)


def _check_other(split: str, other: str, spec: str, rule: FoldRule) -> None:
    """Make sure that a source may bring the images of one split.

    Args:
        split: "validation" or "test".
        other: the source of these images.
        spec: the source of the training images.
        rule: how images are held out.

    Raises:
        InputError: `other` is a table or the source of the training images, or each fold validates.
    """
    if split == "validation" and rule.k:
        raise InputError(f"--validation-data and {rule} do not go together: each fold validates; leave one out")
    if other.partition(":")[0] == TABLE:
        raise InputError(f"--{split}-data {other}: a table; name the images that it was made from")
    if other == spec:
        raise InputError(f"--{split}-data {other}: the same images as --data; name others, or leave it out")


def _open_other(
    split: str, spec: str, data_root: Path, pixel_format: PixelFormat, labels: LabelFile | None
) -> Splits:
    """Open the source of one split.

    Raises:
        InputError: names the flag of that split.
    """
    try:
        return open_labelled(spec, data_root, pixel_format, labels)
    except InputError as error:
        said = str(error).replace(f"--data {spec}", f"--{split}-data {spec}")
        raise InputError(said.replace("--labels", f"--{split}-labels")) from error


def _with_other(splits: Splits, split: str, spec: str, other_spec: str, other: Splits) -> Splits:
    """Return splits whose images of one split are those of another source, with lines for people about both.

    Raises:
        InputError: the classes or the shape of the other images are not those of the training images.
    """
    flag = f"--{split}-data {other_spec}"
    chosen = other.test if split == "test" or other.validation is None else other.validation
    images = other.learnt if chosen is None else chosen
    train, own, notes = splits.train, getattr(splits, split), [*splits.notes, *other.notes]
    if split == "test" and splits.test_validates:
        splits = splits._replace(validation=own)
        notes.append(f"{spec}: its own test images are for validation now")
    elif own is not None:
        notes.append(f"{spec}: its own {len(own):,} {split} images are left out")
    left_out = sum(len(part) for part in other[:3] if part is not None) - len(images)
    if left_out:
        notes.append(f"{other_spec}: its {left_out:,} other images are left out")
    positions = train.classes.positions(images.classes)
    unknown = [images.class_names[label] for label in np.unique(images.labels) if positions[label] < 0]
    if unknown:
        raise InputError(f"{flag}: images of the class {unknown[0]!r}, which {spec} has not")
    if images.shape != train.shape:
        theirs, ours = ("x".join(map(str, each.shape)) for each in (images, train))
        raise InputError(f"{flag}: images of {theirs}, and {spec} has {ours}; use --size")
    images = replace(
        images,
        labels=positions[images.labels],
        class_names=train.class_names,
        class_ids=train.class_ids,
    )
    train = replace(train, ignored=Counter(train.ignored) + Counter(images.ignored))
    return Splits(
        train,
        images if split == "test" else splits.test,
        images if split == "validation" else splits.validation,
        tuple(notes),
    )


def warn_of_splits(console: Console, limit: int | None, train: Images, unseen: bool = True) -> None:
    """Warn if there are fewer training images than --limit or, if `unseen`, of classes without training images."""
    if limit is not None and limit > len(train):
        console.warn(f"--limit {limit} is more than the {len(train):,} training images; all of them are used")
    n_unseen = int((train.class_counts == 0).sum())
    if unseen and n_unseen:
        console.warn(f"{n_unseen} of {len(train.class_names)} classes have no training image")


def check_skipped(skipped: Sequence[Skipped], n: int, what: str, max_corrupt: float) -> None:
    """Make sure that not too many images were skipped.

    Args:
        skipped: the skipped images.
        n: the number of images.
        what: the kind of images, for example "test".
        max_corrupt: the share that may be skipped.

    Raises:
        InputError: more were skipped; the message lists them.
    """
    if len(skipped) > max_corrupt * n:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in sorted(skipped)[:MOST_LISTED])
        more = f"\n  and {len(skipped) - MOST_LISTED} more" if len(skipped) > MOST_LISTED else ""
        raise InputError(
            f"{len(skipped)} of {n} {what} images cannot be used, more than --max-corrupt {max_corrupt:g} allows; "
            f"mend or remove them, or raise it:{listed}{more}"
        )
