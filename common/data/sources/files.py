"""A reader for sources that keep each image in a file of its own."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Items
from common.data.catalogue import ReadResult, Skipped
from common.data.decode import DECODING_STEPS, DecodingSteps, PixelFormat, decode
from common.data.pillow import UndecodableImageError
from common.data.sources.source import Requirements
from common.errors import InputError

MAX_BYTES = 256 << 20
"""Size above which a file is skipped without reading it."""


@dataclass(frozen=True)
class FileReader:
    """Reads images by name below a folder that every worker sees at the same path.

    Attributes:
        root: the folder; items are paths relative to it, with forward slashes.
        shape: (height, width, channels) that every image must have once decoded.
        pixel_format: what each image is decoded into.
        steps: the decoding steps.
    """

    root: Path
    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    steps: DecodingSteps = field(default_factory=lambda: DECODING_STEPS)

    @classmethod
    def of(cls, root: Path, names: Iterable[str], pixel_format: PixelFormat) -> FileReader:
        """Return a reader that expects the shape of the first image that can be decoded.

        Raises:
            InputError: no image can be decoded.
        """
        reason = "it names no image"
        for name in names:
            try:
                first = decode(read_file(root / name), pixel_format)
            except UndecodableImageError as error:
                reason = f"{name}: {error}"
            else:
                height, width, channels = first.shape
                return cls(root, (height, width, channels), pixel_format)
        raise InputError(f"{root}: no image in it can be decoded ({reason})")

    @classmethod
    def for_model(cls, root: Path, requirements: Requirements) -> FileReader:
        """Return a reader that decodes images into what a model requires."""
        return cls(root, requirements.shape, requirements.pixel_format, requirements.steps)

    @property
    def decodes(self) -> bool:
        """True: every read decodes."""
        return True

    def name(self, item: Any) -> str:
        """Return the path relative to the root."""
        return str(item)

    def read(self, items: Items) -> ReadResult:
        """Decode these files; a file is skipped if it cannot be decoded or comes out in another shape."""
        pixels = np.empty((len(items), *self.shape), np.uint8)
        kept: list[int] = []
        skipped: list[Skipped] = []
        for position, item in enumerate(items):
            try:
                image = decode(read_file(self.root / item), self.pixel_format, self.steps)
                if image.shape != self.shape:
                    height, width, _ = image.shape
                    raise UndecodableImageError(
                        f"{height}x{width} where the first image is {self.shape[0]}x{self.shape[1]}: "
                        "bring all to one size with --size HxW"
                    )
            except UndecodableImageError as error:
                skipped.append(Skipped(self.name(item), str(error)))
            else:
                pixels[len(kept)] = image
                kept.append(position)
        return ReadResult(pixels[: len(kept)], np.array(kept, np.int64), skipped)


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UndecodableImageError: the file does not exist, cannot be read, or is larger than MAX_BYTES.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UndecodableImageError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UndecodableImageError(f"{status.st_size:,} bytes, more than the {MAX_BYTES:,} that are allowed")
        return path.read_bytes()
    except OSError as error:
        raise UndecodableImageError(error.strerror or str(error)) from error
    except ValueError as error:  # a name that no file can have
        raise UndecodableImageError(str(error)) from error
