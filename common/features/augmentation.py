"""Variants of images whose moments are added too: shifted by one pixel, or mirrored.

An image and its variants validate the same fold and are removed together, because one sum holds them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.arrays import Pixels

KINDS = ("shift", "flip")
"""Names of variants: shifted by one pixel up, down, left and right; and mirrored from left to right."""


NONE = "none"


@dataclass(frozen=True)
class Augmentation:
    """The variants that are added to each image.

    Attributes:
        shift: True to shift by one pixel in four directions.
        flip: True to mirror, shifted images too.
    """

    shift: bool = False
    flip: bool = False

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """Parse a comma list of KINDS, or NONE.

        Raises:
            ValueError: another word is among them.
        """
        words = [word.strip() for word in text.split(",")] if text != NONE else []
        unknown = [word for word in words if word not in KINDS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(KINDS)}")
        return cls("shift" in words, "flip" in words)

    def __str__(self) -> str:
        return ",".join(name for name in KINDS if getattr(self, name)) or NONE

    @property
    def n_variants(self) -> int:
        """How many images one becomes, itself included."""
        return (5 if self.shift else 1) * (2 if self.flip else 1)

    def variants(self, pixels: Pixels) -> Iterator[Pixels]:
        """Yield the images, uint8 (n, height, width, channels), and each variant of all of them."""
        for moved in _shifted(pixels) if self.shift else (pixels,):
            yield moved
            if self.flip:
                yield np.ascontiguousarray(moved[:, :, ::-1])


AS_IT_IS = Augmentation()
"""No variants."""


def _shifted(pixels: Pixels) -> Iterator[Pixels]:
    """Yield the images, and these moved up, down, left and right; the pixels at the edge stay where they were."""
    yield pixels
    for axis in (1, 2):
        length = pixels.shape[axis]
        for step in (1, -1):
            yield pixels.take(np.clip(np.arange(length) + step, 0, length - 1), axis)
