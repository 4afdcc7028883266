"""Data sources, one module each, and the list of them: SOURCES."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.decode import PixelFormat
from common.data.shipped import seen_by_workers
from common.data.sources.digits import Digits
from common.data.sources.emnist import Emnist
from common.data.sources.folder import Folder
from common.data.sources.herbarium import Herbarium
from common.data.sources.label_file import LabelFile
from common.data.sources.mnist import FashionMnist, Kmnist, Mnist
from common.data.sources.source import Requirements, Source, Splits, Unlabelled
from common.errors import InputError

if TYPE_CHECKING:
    from common.data.table.table import Table

SOURCES: tuple[Source, ...] = (Digits(), Mnist(), FashionMnist(), Kmnist(), Emnist(), Folder(), Herbarium())
"""Every source, in the order in which help texts list them."""

TABLE = "parquet"
TABLE_SPEC = f"{TABLE}:PATH"
"""Image tables are no Source: they hold pixels and not files, and are opened by open_table."""


def specs(*more: str) -> str:
    """Return how `--data` names each source, for help texts and messages, followed by `more` ways."""
    return ", ".join([*(source.spec for source in SOURCES), *more])


def is_kind(kind: str) -> bool:
    """Return True if `kind` is the name of a source or of tables: the part of `--data` before its colon."""
    return kind == TABLE or any(source.kind == kind for source in SOURCES)


def find_source(spec: str) -> Source | None:
    """Return the source that a spec names; None if it names none, or a table."""
    return next((source for source in SOURCES if source.location(spec, Path()) is not None), None)


def open_labelled(
    spec: str, data_root: Path, pixel_format: PixelFormat, labels: LabelFile | None = None
) -> Splits:
    """Open the labelled images of a source that is no table.

    Args:
        spec: the source as `--data` names it.
        data_root: the folder in which named sources live.
        pixel_format: what every image is decoded into.
        labels: a file with the classes of the images; None if the source has them.

    Raises:
        InputError: there is no such source, its files are missing or invalid, or its test images differ in shape.
    """
    source, location = _located(spec, data_root)
    with _errors_of(spec):
        if labels is None:
            splits = source.open(location, pixel_format)
        else:
            splits = source.open_with_labels(location, pixel_format, labels)
    train, test = splits.train, splits.test
    if test is not None and test.shape != train.shape:
        shapes = " and ".join("×".join(map(str, images.shape)) for images in (train, test))
        raise InputError(
            f"--data {spec}: training and test images are {shapes}; bring all to one size with --size"
        )
    return splits


def open_unlabelled(spec: str, data_root: Path, split: str | None, requirements: Requirements) -> Unlabelled:
    """Open images to predict, of a source that is no table.

    Args:
        spec: the source as `--data` names it.
        data_root: the folder in which named sources live.
        split: "train" or "test" for sources with both; None for the test set if there is one.
        requirements: the model's.

    Raises:
        InputError: there is no such source, or its files are missing or invalid.
    """
    source, location = _located(spec, data_root)
    if split is not None and not source.takes_split:
        raise InputError(f"--split {split}: --data {spec} has no splits; leave it out")
    with _errors_of(spec):
        return source.open_unlabelled(location, split, requirements)


def open_table(spec: str) -> Table | None:
    """Open an image table; return None if the spec names another kind of source.

    Raises:
        InputError: the table is missing or invalid.
    """
    kind, _, location = spec.partition(":")
    if kind != TABLE or not location:
        return None
    # imported here, because workers that read other sources need no pyarrow
    from common.data.storage import Storage
    from common.data.table.table import Table

    return Table.open(Storage.at(location))


def _located(spec: str, data_root: Path) -> tuple[Source, Path]:
    for source in SOURCES:
        location = source.location(spec, data_root)
        if location is not None:
            return source, seen_by_workers(location)
    hint = f"; did you mean folder:{spec}?" if Path(spec).is_dir() else ""
    raise InputError(f"--data {spec}: no such source; use one of {specs(TABLE_SPEC)}{hint}")


@contextmanager
def _errors_of(spec: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"--data {spec}: {error.filename or 'it'}: {error.strerror}; make it readable") from error


def check_groups(spec: str, splits: Splits) -> None:
    """Make sure that the images of each group are in one split.

    Raises:
        InputError: images of a group are in two.
    """
    named = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    for (one, images), (other, others) in combinations(named.items(), 2):
        group = images.shared_group(others) if images is not None and others is not None else None
        if group is not None:
            raise InputError(
                f"--data {spec}: images of the group {group!r} are for {one} and for {other}; a group must not be "
                "split, so move them, or leave out --group-column"
            )


def check_classes(spec: str, class_names: tuple[str, ...]) -> None:
    """Make sure that there is something to learn.

    Raises:
        InputError: there is only one class.
    """
    if len(class_names) < 2:
        inner = Path(spec.partition(":")[2], class_names[0])
        folders = spec.startswith("folder:") and inner.is_dir() and any(path.is_dir() for path in inner.iterdir())
        hint = f"; did you mean folder:{inner}?" if folders else ""
        raise InputError(f"--data {spec}: only one class, {class_names[0]!r}; a classifier needs two{hint}")
