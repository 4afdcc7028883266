"""Data sources: one module each, opened by one door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.catalogue import Catalogue
from common.datasets import digits, folder, herbarium, mnist
from common.decode import PixelFormat
from common.errors import InputError


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
SPECS = ", ".join([*NAMED, *(f"{kind}:PATH" for kind in AT_PATH)])


def open_dataset(spec: str, data_root: Path, form: PixelFormat) -> Dataset:
    """Open a data source.

    Args:
        spec: one of SPECS.
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
            train, test = AT_PATH[kind](Path(path).expanduser().absolute(), form)
        else:
            raise InputError(f"--data {spec}: no such source; use one of {SPECS}")
    except OSError as error:
        raise InputError(f"--data {spec}: {error.filename}: {error.strerror}; make it readable") from error
    if len(train.class_names) < 2:
        raise InputError(f"--data {spec}: only one class, {train.class_names[0]!r}; a classifier needs two")
    return Dataset(train, test)
