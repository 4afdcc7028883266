"""From the bytes of an image file to uint8 pixels in the format of a run: channels, size and part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from common.arrays import Pixels
from common.data.pillow import (
    MAX_PIXELS,
    UndecodableImageError,
    errors_of_the_image,
    ignore_pillow_warnings,
    load,
)

DecodingSteps = Mapping[str, Callable[[Any, "PixelFormat"], Any]]
"""The steps from the bytes of a file to pixels, by name and in order: each takes the result of the one before."""


@dataclass(frozen=True)
class PixelFormat:
    """The format that every image of a run is decoded into.

    Attributes:
        size: (height, width) to resize to, or None to keep the image's own size.
        grey: one channel of luminance instead of three of colour.
        binarize: fraction of full intensity from which a grey pixel becomes white (255); below it, black (0).
        crop: if an image's proportions are not those of `size`, take the largest part in its centre that has
            them instead of squeezing the image.
        max_pixels: files of more pixels are refused. Formats that differ in this alone are equal.
    """

    size: tuple[int, int] | None = None
    grey: bool = False
    binarize: float | None = None
    crop: bool = False
    max_pixels: int = field(default=MAX_PIXELS, compare=False)

    def described(self) -> dict[str, Any]:
        """Return the format as JSON, without `max_pixels`, which changes no image."""
        return {"size": self.size, "grey": self.grey, "binarize": self.binarize, "crop": self.crop}

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> PixelFormat:
        """Restore a pixel format from the output of `described`, after a round trip through JSON.

        Raises:
            KeyError, TypeError, ValueError: `described` is no such output.
        """
        size = described["size"]
        height, width = size or (0, 0)
        found = cls((height, width) if size else None, described["grey"], described["binarize"])
        return replace(found, crop=described.get("crop", False))  # older descriptions lack it

    @property
    def channels(self) -> int:
        """1 for grey or binarized images, 3 for colour."""
        return 1 if self.grey or self.binarize is not None else 3

    @property
    def mode(self) -> str:
        """Pillow's name of images with this number of channels."""
        return "L" if self.channels == 1 else "RGB"

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image of the given ones is resized to.

        This is `size`, or if the image is to be cropped, the smallest size that covers `size`. For a square
        `size`, resizing and cropping equal torchvision's Resize(side) and CenterCrop(side), pixel by pixel.

        Raises:
            UndecodableImageError: the image is so thin that covering `size` takes more than max_pixels pixels.
        """
        if self.size is None:
            return height, width
        to_height, to_width = self.size
        if not self.crop or (height, width) == self.size:
            return self.size
        if to_height * width >= to_width * height:  # the image has the wider proportions
            to_width = to_height * width // height
        else:
            to_height = to_width * height // width
        if to_height * to_width > self.max_pixels:
            raise UndecodableImageError(f"{width}×{height} pixels, too thin to take a part of {self} from")
        return to_height, to_width

    def centre(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns to keep of an image that was resized to this height and width."""
        to_height, to_width = self.size or (height, width)
        top, left = round((height - to_height) / 2), round((width - to_width) / 2)
        return slice(top, top + to_height), slice(left, left + to_width)

    def __str__(self) -> str:
        words = []
        if self.size is not None:
            words.append(f"{self.size[0]}x{self.size[1]}" + (" from the centre" if self.crop else ""))
        if self.binarize is not None:
            words.append(f"binarized at {self.binarize:g}")
        elif self.grey:
            words.append("grey")
        return " ".join(words) or "as they are"


AS_THEY_ARE = PixelFormat()
"""The format that leaves images as they are, in colour."""


def decode(data: bytes, pixel_format: PixelFormat, steps: DecodingSteps | None = None) -> Pixels:
    """Decode one image file.

    Args:
        data: the bytes of a PNG, JPEG, BMP, TIFF or WebP file; of several frames, the first counts.
        pixel_format: what to decode it into.
        steps: the decoding steps; None for DECODING_STEPS.

    Returns:
        uint8 (height, width, channels).

    Raises:
        UndecodableImageError: the file is of another kind, truncated, or has more than max_pixels pixels.
    """
    ignore_pillow_warnings()
    result: Any = data
    with errors_of_the_image(data):
        for step in (DECODING_STEPS if steps is None else steps).values():
            result = step(result, pixel_format)
    pixels: Pixels = result
    return pixels


def reformat(pixels: Pixels, pixel_format: PixelFormat) -> Pixels:
    """Bring images in memory into a pixel format: uint8 (n, h, w, c) to uint8 (n, h', w', c')."""
    if pixel_format == PixelFormat():
        return pixels
    images = (Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels)
    # an image without colour keeps its one channel: three copies of it would add nothing
    pixel_format = replace(pixel_format, grey=pixel_format.grey or pixels.shape[3] == 1)
    height, width = pixel_format.size or pixels.shape[1:3]
    out = np.empty((len(pixels), height, width, pixel_format.channels), np.uint8)
    for i, image in enumerate(images):
        resized = _resize(_in_mode(image, pixel_format), pixel_format)
        out[i] = _to_bytes(_crop(resized, pixel_format), pixel_format)
    return out


# The decoding steps: from bytes to an upright image in the format's mode, to its size, to its part, to an array.


def _load(data: bytes, pixel_format: PixelFormat) -> Image.Image:
    return _in_mode(load(data, pixel_format.max_pixels), pixel_format)


def _in_mode(image: Image.Image, pixel_format: PixelFormat) -> Image.Image:
    return image if image.mode == pixel_format.mode else image.convert(pixel_format.mode)


def _resize(image: Image.Image, pixel_format: PixelFormat) -> Image.Image:
    if pixel_format.size is None:
        return image
    height, width = pixel_format.resized(image.height, image.width)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, pixel_format: PixelFormat) -> Image.Image:
    if pixel_format.size is None or image.size == (pixel_format.size[1], pixel_format.size[0]):
        return image
    rows, columns = pixel_format.centre(image.height, image.width)
    return image.crop((columns.start, rows.start, columns.stop, rows.stop))


def _to_bytes(image: Image.Image, pixel_format: PixelFormat) -> Pixels:
    pixels = np.asarray(image, np.uint8)
    if pixel_format.binarize is not None:
        pixels = np.where(pixels >= pixel_format.binarize * 255, np.uint8(255), np.uint8(0))
    return pixels.reshape(*pixels.shape[:2], pixel_format.channels)


DECODING_STEPS: DecodingSteps = {"decode": _load, "resize": _resize, "crop": _crop, "to bytes": _to_bytes}
"""The plain decoding steps, by Pillow."""
