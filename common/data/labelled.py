"""From flags to images: a source opened, split, limited, and looked at for what a person should know."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from common.console import Console
from common.data.catalogue import Skipped
from common.data.decode import PixelFormat
from common.data.images import CatalogueImages, Images
from common.data.sources import open_dataset
from common.data.splits import FoldRule, hold_out, limit
from common.errors import InputError

MOST_TOLD = 20
"""Unusable images that an error names."""


def open_splits(
    arguments: argparse.Namespace, form: PixelFormat, rule: FoldRule
) -> tuple[CatalogueImages, CatalogueImages]:
    """Seeded stratified splits of a source whose names and labels are all at hand.

    Args:
        arguments: the flags, of which data, data_root, test, seed and limit are used.
        form: what every image is turned into.
        rule: how images are held out for validation.

    Returns:
        training images, with the fold that each validates, and test images.

    Raises:
        InputError: flags or data are wrong.
    """
    train, test = open_dataset(arguments.data, arguments.data_root, form)
    if test is None:
        parts = hold_out(train.labels, arguments.test, arguments.seed, "test")
        train, test = train.take(parts.rest), train.take(parts.held_out)
    if arguments.limit is not None:
        train = train.take(limit(train.labels, arguments.limit, arguments.seed))
    if len(train) < max(2, rule.k or 0):
        raise InputError(f"{len(train)} training images are too few to hold any out for validation")
    return CatalogueImages(train, rule.of_labels(train.labels, arguments.seed)), CatalogueImages(test)


def warn_of_splits(console: Console, asked: int | None, train: Images) -> None:
    """Say what is odd about the training images: fewer of them than `asked` for, or classes without any."""
    if asked is not None and asked > len(train):
        console.warn(f"--limit {asked} is more than the {len(train):,} training images; all of them are used")
    unseen = int((train.class_counts == 0).sum())
    if unseen:
        console.warn(f"{unseen} of {len(train.class_names)} classes have no training image")


def check_unusable(skipped: Sequence[Skipped], n: int, what: str, max_corrupt: float) -> None:
    """Make sure that not too many images turned out unusable.

    Args:
        skipped: those.
        n: of how many.
        what: images they are, for example "test".
        max_corrupt: the share that is allowed.

    Raises:
        InputError: they are more; the message lists them.
    """
    if len(skipped) > max_corrupt * n:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in sorted(skipped)[:MOST_TOLD])
        more = f"\n  and {len(skipped) - MOST_TOLD} more" if len(skipped) > MOST_TOLD else ""
        raise InputError(
            f"{len(skipped)} of {n} {what} images cannot be used, more than --max-corrupt {max_corrupt:g} allows; "
            f"mend or remove them:{listed}{more}"
        )
