"""Labelled images: open a source, split and limit it, and warn about oddities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.console import Console
from common.data.catalogue import Catalogue, Skipped
from common.data.decode import AS_THEY_ARE, PixelFormat
from common.data.images import CatalogueImages, Images
from common.data.sources import check_classes, open_labelled
from common.data.sources.finding import ignored_files
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
    test: float = 0.2,
    test_data: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> tuple[CatalogueImages, CatalogueImages]:
    """Open a source that lists all names and labels, and split it, stratified and seeded.

    Args:
        spec: the source, as --data names it: "digits", "folder:PATH", …
        rule: how images are held out for validation.
        pixel_format: what every image is decoded into.
        data_root: the folder in which named sources live.
        test: the fraction of images held out for testing, if the source has no test set.
        test_data: another source, whose test set is used, or all of its images if it has none.
        seed: the seed of all shuffles.
        limit: the number of training images to use; None for all.
        say: called with each line for people about how the source was read.

    Returns:
        Training images, with the fold that each validates, and test images.

    Raises:
        InputError: there is no such source, or too few images.
    """
    train, tested, validation, notes = open_labelled(spec, data_root, pixel_format)
    check_classes(spec, train.class_names)
    if test_data is not None:
        if tested is not None:
            notes = (*notes, f"{spec}: its own {len(tested):,} test images are left out")
        tested, more = _other_test_set(train, spec, test_data, data_root, pixel_format)
        notes = (*notes, *more)
        train = replace(train, ignored=Counter(train.ignored) + Counter(tested.ignored))
    for note in notes:
        say(note)
    if train.ignored:
        say(ignored_files(train.ignored))
    if tested is None:
        parts = hold_out(train.labels, test, seed, "test")
        train, tested = train.take(parts.rest), train.take(parts.held_out)
    if limit is not None:
        train = train.take(stratified_limit(train.labels, limit, seed))
    n_learnt = len(train) + (len(validation) if validation is not None and rule.k else 0)
    if n_learnt < max(2, rule.k or 0):
        raise InputError(f"{n_learnt} training images are too few to hold any out for validation")
    if validation is None:
        folds = rule.of_labels(train.labels, seed)
    else:
        n_train, train = len(train), train.followed_by(validation)
        folds = rule.of_split(n_train, train.labels, seed)
    return (
        CatalogueImages(train, folds, pixel_format),
        CatalogueImages(tested, pixel_format=pixel_format),
    )


def _other_test_set(
    train: Catalogue, spec: str, test_data: str, data_root: Path, pixel_format: PixelFormat
) -> tuple[Catalogue, tuple[str, ...]]:
    """Return the test images of another source, or all of its images, labelled as the training images are.

    Lines for people about how it was read come with them.

    Raises:
        InputError: there is none, or their classes or their shape are not those of the training images.
    """
    splits = open_labelled(test_data, data_root, pixel_format)
    other, notes = splits.learnt, splits.notes
    if splits.test is not None:
        other = splits.test
        notes = (*notes, f"{test_data}: its {len(splits.learnt):,} images for training are left out")
    positions = train.classes.positions(other.classes)
    unknown = [other.class_names[label] for label in np.unique(other.labels) if positions[label] < 0]
    if unknown:
        raise InputError(f"--test-data {test_data}: images of the class {unknown[0]!r}, which {spec} has not")
    if other.shape != train.shape:
        theirs, ours = ("x".join(map(str, images.shape)) for images in (other, train))
        raise InputError(f"--test-data {test_data}: images of {theirs}, and {spec} has {ours}; use --size")
    labels = positions[other.labels]
    return replace(other, labels=labels, class_names=train.class_names, class_ids=train.class_ids), notes


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
