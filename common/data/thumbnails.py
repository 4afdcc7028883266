"""Thumbnails: small compressed pictures, by which reports show images whose pixels were not kept."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from common.arrays import Pixels
from common.data.decode import PixelFormat, decode

SIDE = 64
"""The largest side of a thumbnail, in pixels."""

QUALITY = 85
"""The quality of a thumbnail, by JPEG's measure."""

PLAIN = PixelFormat(max_pixels=SIDE * SIDE)
"""Thumbnails that claim to be larger are refused by their header, before they are decoded."""


def scaled_down(pixels: Pixels, side: int) -> Pixels:
    """Scale an image, uint8 (h, w, 1 or 3), down to at most `side` pixels in height and width."""
    height, width, channels = pixels.shape
    if max(height, width) <= side:
        return pixels
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def thumbnail(pixels: Pixels) -> bytes:
    """Return the thumbnail of an image, uint8 (h, w, 1 or 3), as a JPEG file.

    It takes about 1.2 KB for a photograph, where PNG would take 5. Only grey images as small as digits would be
    smaller as PNG, by a few hundred bytes.
    """
    small = scaled_down(pixels, SIDE)
    buffer = io.BytesIO()
    image = Image.fromarray(small[..., 0] if small.shape[2] == 1 else small)
    image.save(buffer, format="JPEG", quality=QUALITY, optimize=True)  # a fifth smaller than without optimising
    return buffer.getvalue()


def picture_of(data: bytes) -> Pixels:
    """Decode a thumbnail into colour, uint8 (h, w, 3).

    Raises:
        UndecodableImageError: it is damaged, or larger than thumbnails are.
    """
    return decode(data, PLAIN)
