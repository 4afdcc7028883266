"""A reader for sources that are one array in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.arrays import Items, Pixels
from common.data.catalogue import ReadResult
from common.data.decode import PixelFormat, reformat


@dataclass(frozen=True)
class ArrayReader:
    """Reads a small set of images that travels with the reader.

    Attributes:
        source: the beginning of every name.
        pixels: uint8 (n, height, width, channels); items are row numbers.
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
        """False: the pixels are in memory."""
        return False

    def name(self, item: Any) -> str:
        """Return, for example, digits/00042."""
        return f"{self.source}/{int(item):05d}"

    def read(self, items: Items) -> ReadResult:
        """Return rows of the array; none is ever skipped."""
        return ReadResult(self.pixels[items], np.arange(len(items)), [])

    @classmethod
    def of(cls, source: str, pixels: Pixels, pixel_format: PixelFormat) -> ArrayReader:
        """Return a reader of `pixels`, brought into a pixel format once."""
        return cls(source, reformat(pixels, pixel_format))
