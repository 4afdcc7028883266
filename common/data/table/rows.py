"""The images of a table one by one: listed without their pixels, and read in any order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Folds, Indices, Items, Labels, Pixels
from common.data.catalogue import Catalogue, ReadResult
from common.data.decode import PixelFormat, reformat
from common.data.images import CatalogueImages
from common.data.splits import FoldRule
from common.data.storage import Storage
from common.data.table.reading import RowRange, TableImages, TablePart

ROW = np.dtype([("row", np.int64), ("name", np.object_)])
"""An image of a table: its number among the images that are listed, and its name."""

KEPT_GROUPS = 4
"""Row groups that a process keeps, because the images that it reads next are often of the same ones."""

NOTHING_HELD_OUT = FoldRule(None, 0)


def row_items(rows: Indices, names: NDArray[np.object_] | None = None) -> Items:
    """Return the items of these rows, (n,) of ROW; `names` may be left out where nobody asks for them."""
    items = np.zeros(len(rows), ROW)
    items["row"] = rows
    if names is not None:
        items["name"] = names
    return items


@dataclass(frozen=True)
class TableReader:
    """Reads images of a table by their rows.

    A row group is the smallest unit that can be read. So images are read fastest in the order of their rows, or
    many at once.

    Attributes:
        part: the row groups; their images are numbered from 0, in this order.
        pixel_format: what images are brought into; None to take them as the table holds them.
    """

    part: TablePart
    pixel_format: PixelFormat | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        if self.pixel_format is None:
            return self.part.shape
        height, width, channels = self.part.shape
        height, width = self.pixel_format.size or (height, width)
        return height, width, 1 if channels == 1 else self.pixel_format.channels

    @property
    def decodes(self) -> bool:
        """True if images are brought into another format; otherwise pixels are copied."""
        return self.pixel_format is not None

    def name(self, item: Any) -> str:
        """Return the name by which the table knows an image."""
        return str(item["name"])

    def groups(self, items: Items) -> Indices:
        """Return the row group of each image, as a position in `part.ranges`, int64 (n,)."""
        return np.searchsorted(self._starts, items["row"], "right") - 1

    def read(self, items: Items) -> ReadResult:
        """Return the images of these items, reading each row group once; none is ever skipped.

        Raises:
            InputError: a file is missing or damaged.
        """
        pixels = np.empty((len(items), *self.part.shape), np.uint8)
        groups = self.groups(items)
        order = np.argsort(groups, kind="stable")
        for where in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
            if len(where):
                group = int(groups[where[0]])
                pixels[where] = self._row_group(group)[items["row"][where] - self._starts[group]]
        if self.pixel_format is not None:
            pixels = reformat(pixels, self.pixel_format)
        return ReadResult(pixels, np.arange(len(items)), [])

    @cached_property
    def _starts(self) -> Indices:
        """The number of the first image of each row group, and the number of all images."""
        return np.cumsum([0, *(each.rows for each in self.part.ranges)])

    def _row_group(self, group: int) -> Pixels:
        part = self.part
        return _row_group(part.storage, part.shape, part.n_classes, part.ranges[group])


@lru_cache(maxsize=KEPT_GROUPS)
def _row_group(storage: Storage, shape: tuple[int, int, int], n_classes: int, where: RowRange) -> Pixels:
    """Return the pixels of a row group; files of a table are never changed."""
    (block,) = TablePart(storage, shape, n_classes, NOTHING_HELD_OUT, [where]).blocks()
    return block.pixels


def listed(images: TableImages, pixel_format: PixelFormat | None = None) -> CatalogueImages:
    """List images of a table in the order of their rows; names, labels and folds are read, but no pixels.

    Args:
        images: the images, none of which is left out by its name or its class.
        pixel_format: what the reader brings them into; None to take them as the table holds them.

    Raises:
        InputError: a file is missing or damaged.
    """
    (part,) = images.parts(1)
    found = list(part.listed())
    names: NDArray[np.object_] = np.concatenate([np.empty(0, object), *(each.names for each in found)])
    labels: Labels = np.concatenate([np.empty(0, np.int64), *(each.labels for each in found)])
    folds: Folds = np.concatenate([np.empty(0, np.int16), *(each.folds for each in found)])
    ignored: Counter[str] = sum(map(Counter, images.table.ignored.values()), Counter())
    catalogue = Catalogue(
        TableReader(part, pixel_format),
        row_items(np.arange(len(names)), names),
        labels,
        images.class_names,
        images.class_ids,
        ignored,
    )
    return CatalogueImages(catalogue, folds, pixel_format or images.pixel_format)
