"""From pixels to features: the one place to put anything cleverer than the pixels themselves."""

from __future__ import annotations

import math

from common.arrays import Pixels


def features(pixels: Pixels) -> Pixels:
    """Features of a block of images: uint8 (n, height, width, channels) to uint8 (n, d)."""
    return pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))  # -1 would not do for no image at all
