"""A reader for sources that are one array in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.arrays import Items, Pixels
from common.data.catalogue import Read
from common.data.decode import PixelFormat, reformat


@dataclass(frozen=True)
class ArrayReader:
    """Images of a small set that travels whole.

    Attributes:
        source: what names begin with.
        pixels: uint8 (n, height, width, channels); items are its row numbers.
    """

    source: str
    pixels: Pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of each image."""
        _, height, width, channels = self.pixels.shape
        return height, width, channels

    @property
    def decodes(self) -> bool:
        """The pixels are here."""
        return False

    def name(self, item: Any) -> str:
        """For example digits/00042."""
        return f"{self.source}/{int(item):05d}"

    def read(self, items: Items) -> Read:
        """Rows of the array; none is ever skipped."""
        return Read(self.pixels[items], np.arange(len(items)), [])

    @classmethod
    def of(cls, source: str, pixels: Pixels, form: PixelFormat) -> ArrayReader:
        """A reader of `pixels` brought into `form` once."""
        return cls(source, reformat(pixels, form))
