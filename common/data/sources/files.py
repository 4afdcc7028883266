"""A reader for sources that keep each image in a file of its own."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Items
from common.data.catalogue import Read, Skipped
from common.data.decode import STAGES, PixelFormat, Stages, UndecodableImageError, decode
from common.errors import InputError

MAX_BYTES = 256 << 20
"""Size of a file above which it is skipped unread."""


@dataclass(frozen=True)
class FileReader:
    """Reads images by name below a folder that every worker sees at the same path.

    Attributes:
        root: the folder; items are paths relative to it, with forward slashes.
        shape: (height, width, channels) that every image must come out as.
        form: what each image is turned into.
        stages: how.
    """

    root: Path
    shape: tuple[int, int, int]
    form: PixelFormat
    stages: Stages = field(default_factory=lambda: STAGES)

    @classmethod
    def of(cls, root: Path, names: Iterable[str], form: PixelFormat) -> FileReader:
        """A reader whose shape is that of the first image that can be decoded.

        Raises:
            InputError: none can.
        """
        reason = "it names no image"
        for name in names:
            try:
                first = decode(read_file(root / name), form)
            except UndecodableImageError as error:
                reason = f"{name}: {error}"
            else:
                height, width, channels = first.shape
                return cls(root, (height, width, channels), form)
        raise InputError(f"{root}: no image in it can be decoded ({reason})")

    @property
    def decodes(self) -> bool:
        """Every read decodes."""
        return True

    def name(self, item: Any) -> str:
        """The path relative to the root."""
        return str(item)

    def read(self, items: Items) -> Read:
        """Decode these files; one that cannot be, or comes out in another shape, is skipped."""
        pixels = np.empty((len(items), *self.shape), np.uint8)
        kept: list[int] = []
        skipped: list[Skipped] = []
        for position, item in enumerate(items):
            try:
                image = decode(read_file(self.root / item), self.form, self.stages)
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
        return Read(pixels[: len(kept)], np.array(kept, np.int64), skipped)


def read_file(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        UndecodableImageError: there is no such file, or none that can be read, or it is far too large.
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
