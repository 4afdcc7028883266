"""The images of a table, opened for prediction."""

from __future__ import annotations

from dataclasses import replace

from common.data.decode import PixelFormat
from common.data.sources.source import ImageList, Requirements, Unlabelled
from common.data.table.reading import TableImages
from common.data.table.rows import NOTHING_HELD_OUT, listed
from common.data.table.table import Table
from common.errors import InputError


def open_rows(table: Table, spec: str, split: str | None, requirements: Requirements) -> Unlabelled:
    """Open images of a table, in the order of its rows.

    Args:
        table: the table.
        spec: the table as `--data` names it.
        split: "train" or "test"; None for both.
        requirements: the model's.

    Raises:
        InputError: the table has no such images, or none that the model can take.
    """
    if table.features is not None:
        raise InputError(
            f"--data {spec}: it holds the features {table.features.get('spec')} and no pixels; "
            "spark_jobs/predict.py predicts by them, with a model that was fitted to them"
        )
    images = TableImages(table, NOTHING_HELD_OUT, split)
    if not len(images):
        raise InputError(
            f"--data {spec}: " + (f"has no {split} images; leave --split out" if split else "no images in it")
        )
    catalogue = listed(images, _missing_format(table, spec, requirements)).catalogue
    position = requirements.classes.positions(table.classes)
    ids = catalogue.names()
    return Unlabelled(catalogue.reader, ImageList(ids, catalogue.items, position[catalogue.labels]))


def _missing_format(table: Table, spec: str, requirements: Requirements) -> PixelFormat | None:
    """Return what a model needs the pixels of a table brought into; None if they are right as they are.

    Raises:
        InputError: the table has lost what the model needs.
    """
    has, wanted = table.pixel_format, requirements.pixel_format
    if has.binarize is not None and has.binarize != wanted.binarize:
        raise InputError(f"--data {spec}: its images are {has}, and the model's were {wanted}")
    *size, channels = table.shape
    # an image without colour keeps its one channel, which the model repeats
    fits = channels in (1, requirements.shape[2]) and tuple(size) == requirements.shape[:2]
    if fits and has.binarize == wanted.binarize:
        return None
    # a model whose images were taken as they were names neither size nor colour
    height, width, wanted_channels = requirements.shape
    return replace(wanted, size=(height, width), grey=wanted.grey or wanted_channels == 1)
