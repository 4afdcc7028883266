"""Data sources: one module each, opened by one door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.shipped import seen_by_workers
from common.data.sources import digits, folder, herbarium, mnist
from common.errors import InputError

if TYPE_CHECKING:
    from common.data.table.table import Table


class Dataset(NamedTuple):
    """An opened source.

    Attributes:
        train: every labelled image that is not in `test`.
        test: the source's own test set, or None where it brings none.
    """

    train: Catalogue
    test: Catalogue | None


NAMED: dict[str, Callable[[Path, PixelFormat], tuple[Catalogue, Catalogue | None]]] = {
    "digits": digits.open_digits,
    "mnist": mnist.open_mnist,
}
AT_PATH: dict[str, Callable[[Path, PixelFormat], tuple[Catalogue, Catalogue | None]]] = {
    "folder": folder.open_folder,
    "herbarium": herbarium.open_herbarium,
}
TABLE = "parquet"
SPECS = ", ".join([*NAMED, *(f"{kind}:PATH" for kind in (*AT_PATH, TABLE))])


def open_table(spec: str) -> Table | None:
    """Open an image table, or None where the source is of another kind.

    Raises:
        InputError: there is no table, or it is not what it should be.
    """
    kind, _, place = spec.partition(":")
    if kind != TABLE or not place:
        return None
    # imported here, because workers that read other sources need no pyarrow
    from common.data.storage import Storage
    from common.data.table.table import Table

    table = Table.open(Storage.at(place))
    _check_classes(spec, table.class_names)
    return table


def open_dataset(spec: str, data_root: Path, form: PixelFormat) -> Dataset:
    """Open a data source that is no table.

    Args:
        spec: one of SPECS but parquet:PATH.
        data_root: the folder in which named sets live.
        form: what every image is turned into.

    Raises:
        InputError: there is no such source, or it is not what it should be.
    """
    kind, colon, path = spec.partition(":")
    try:
        if kind in NAMED and not colon:
            train, test = NAMED[kind](data_root, form)
        elif kind in AT_PATH and path:
            train, test = AT_PATH[kind](seen_by_workers(Path(path)), form)
        else:
            raise InputError(f"--data {spec}: no such source; use one of {SPECS}")
    except OSError as error:
        raise InputError(f"--data {spec}: {error.filename}: {error.strerror}; make it readable") from error
    _check_classes(spec, train.class_names)
    return Dataset(train, test)


def _check_classes(spec: str, class_names: tuple[str, ...]) -> None:
    if len(class_names) < 2:
        raise InputError(f"--data {spec}: only one class, {class_names[0]!r}; a classifier needs two")
