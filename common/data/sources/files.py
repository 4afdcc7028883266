"""A reader for sources that keep each image in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.arrays import Items, Pixels
from common.data.catalogue import ReadResult, Skipped
from common.data.decode import DECODING_STEPS, DecodingSteps, PixelFormat, decode
from common.data.pillow import UndecodableImageError
from common.data.sources.source import Requirements
from common.data.sources.tree import Tree
from common.errors import InputError

MOST_TRIED = 1_000
"""Files that are tried for a first one that can be decoded, at most."""


@dataclass(frozen=True)
class FileReader:
    """Reads images by name below a folder that every worker sees.

    Attributes:
        tree: the folder; items are names relative to it, with forward slashes.
        shape: (height, width, channels) that every image must have once decoded.
        pixel_format: what each image is decoded into.
        steps: the decoding steps.
    """

    tree: Tree
    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    steps: DecodingSteps = field(default_factory=lambda: DECODING_STEPS)

    @classmethod
    def of(cls, tree: Tree, names: Sequence[str], pixel_format: PixelFormat) -> FileReader:
        """Return a reader that expects the shape of the first image that can be decoded.

        Raises:
            InputError: no image can be decoded.
        """
        reason = "it names no image"
        for name, data in zip(names, tree.contents(names[:MOST_TRIED]), strict=False):
            try:
                height, width, channels = _decoded(data, pixel_format).shape
            except UndecodableImageError as error:
                reason = f"{name}: {error}"
            else:
                return cls(tree, (height, width, channels), pixel_format)
        which = f"none of the first {MOST_TRIED:,} images" if len(names) > MOST_TRIED else "no image"
        raise InputError(f"{tree}: {which} in it can be decoded ({reason})")

    @classmethod
    def for_model(cls, tree: Tree, requirements: Requirements) -> FileReader:
        """Return a reader that decodes images into what a model requires."""
        return cls(tree, requirements.shape, requirements.pixel_format, requirements.steps)

    @property
    def decodes(self) -> bool:
        """True: every read decodes."""
        return True

    def name(self, item: Any) -> str:
        """Return the name relative to the tree's folder."""
        return str(item)

    def read(self, items: Items) -> ReadResult:
        """Decode these files; a file is skipped if it cannot be decoded or comes out in another shape."""
        pixels = np.empty((len(items), *self.shape), np.uint8)
        kept: list[int] = []
        skipped: list[Skipped] = []
        for position, data in enumerate(self.tree.contents(items.tolist())):
            try:
                image = _decoded(data, self.pixel_format, self.steps)
                if image.shape != self.shape:
                    height, width, _ = image.shape
                    raise UndecodableImageError(
                        f"{height}x{width} where the first image is {self.shape[0]}x{self.shape[1]}: "
                        "bring all to one size with --size HxW"
                    )
            except UndecodableImageError as error:
                skipped.append(Skipped(self.name(items[position]), str(error)))
            else:
                pixels[len(kept)] = image
                kept.append(position)
        return ReadResult(pixels[: len(kept)], np.array(kept, np.int64), skipped)


def _decoded(
    data: bytes | UndecodableImageError, pixel_format: PixelFormat, steps: DecodingSteps = DECODING_STEPS
) -> Pixels:
    """Decode an image, uint8 (height, width, channels).

    Raises:
        UndecodableImageError: it cannot be decoded, or there are no data and this is why.
    """
    if isinstance(data, UndecodableImageError):
        raise data
    return decode(data, pixel_format, steps)
