"""Columns of images, turned into pixels of one shape: files, Spark's image structs, or plain bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pyspark.ml.image import ImageSchema
from pyspark.sql import DataFrame
from pyspark.sql.types import BinaryType, StructType

from common.arrays import Pixels
from common.data.decode import PixelFormat, decode, reformat
from common.data.pillow import UndecodableImageError
from spark_jobs.ml.columns import type_of

FILE, STRUCT, PLAIN = "the bytes of an image file", "one of Spark's images", "plain bytes"
"""Kinds of columns of images."""

CHANNELS = (1, 3, 4)
"""Channels of Spark's images, of 8 bits each: grey, BGR and BGRA."""


class ImagesColumn(NamedTuple):
    """How the entries of a column become pixels.

    Attributes:
        name: of the column, for errors.
        kind: FILE, STRUCT or PLAIN.
        size: (height, width) to resize to; None to keep the images' own.
        grey: whether images become grey.
        shape: (height, width, channels) of plain bytes; None for others.
    """

    name: str
    kind: str
    size: tuple[int, int] | None
    grey: bool
    shape: tuple[int, int, int] | None

    @classmethod
    def of(
        cls, frame: DataFrame, name: str, size: Sequence[int] | None, grey: bool, shape: Sequence[int] | None
    ) -> ImagesColumn:
        """Look at the type of a column.

        Raises:
            ValueError: there is no such column, or it holds no images; or a length is unusable.
        """
        kind = type_of(frame, name)
        for what, lengths, numbers in (("imageSize", size, (2,)), ("shape", shape, (2, 3))):
            if lengths is not None and (len(lengths) not in numbers or min(lengths) < 1):
                raise ValueError(f"{what}={list(lengths)}: height and width of images are wanted")
        height_width = None if size is None else (size[0], size[1])
        if isinstance(kind, StructType) and kind.names == ImageSchema.imageFields:
            return cls(name, STRUCT, height_width, grey, None)
        if not isinstance(kind, BinaryType):
            raise ValueError(f"the column {name!r} is of type {kind.simpleString()}; images or bytes are wanted")
        if shape is None:
            return cls(name, FILE, height_width, grey, None)
        height, width, channels = (*shape, 1)[:3]
        return cls(name, PLAIN, height_width, grey, (height, width, channels))

    @property
    def is_struct(self) -> bool:
        """True if entries are Spark's images."""
        return self.kind == STRUCT

    def pixels(self, entry: Any) -> Pixels:
        """Return the pixels of an entry, uint8 (height, width, channels).

        Raises:
            ValueError: it is no image that can be used.
        """
        pixel_format = PixelFormat(self.size, self.grey)
        if entry is None:
            raise ValueError(f"the column {self.name!r} has an image that is null")
        if self.kind == FILE:
            try:
                return decode(bytes(entry), pixel_format)
            except UndecodableImageError as error:
                raise ValueError(f"the column {self.name!r} has an image that cannot be used: {error}") from error
        pixels = self._plain(entry) if self.kind == PLAIN else self._struct(entry)
        found: Pixels = reformat(pixels[None], pixel_format)[0]
        return found

    def batch(self, entries: Sequence[Any]) -> Pixels:
        """Return the pixels of entries, uint8 (n, height, width, channels).

        Raises:
            ValueError: some are no images that can be used, or they are of different shapes.
        """
        images = [self.pixels(entry) for entry in entries]
        shapes = sorted({image.shape for image in images})
        if len(shapes) > 1:
            first, second = ("×".join(map(str, shape)) for shape in shapes[:2])
            raise ValueError(f"the column {self.name!r} has images of {first} and of {second}; set imageSize")
        return np.stack(images)

    def _plain(self, entry: bytes) -> Pixels:
        shape = self.shape or (0, 0, 0)
        if len(entry) != np.prod(shape):
            raise ValueError(f"the column {self.name!r} has {len(entry)} bytes, and shape={list(shape)} others")
        pixels: Pixels = np.frombuffer(entry, np.uint8).reshape(shape)
        return pixels

    def _struct(self, entry: Any) -> Pixels:
        height, width, channels = entry["height"], entry["width"], entry["nChannels"]
        if channels not in CHANNELS or len(entry["data"]) != height * width * channels:
            raise ValueError(
                f"the column {self.name!r} has an image that Spark could not read ({entry['origin']})"
            )
        pixels = np.frombuffer(bytes(entry["data"]), np.uint8).reshape(height, width, channels)
        return pixels if channels == 1 else np.ascontiguousarray(pixels[:, :, 2::-1])  # Spark stores BGR and BGRA
