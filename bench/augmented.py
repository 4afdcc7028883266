"""Any number of images, made from a few originals.

Image i is the original number i mod n. From the second round on it is turned by up to 15° and shifted by up to 2
pixels, by amounts that depend on i alone.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.arrays import Floats, Items, Keys, Pixels
from common.data.catalogue import Catalogue, PixelReader, ReadResult
from common.data.decode import PixelFormat
from common.data.sources import open_labelled

MOST_DEGREES, MOST_PIXELS = 15, 2
"""How far an image is turned and shifted, at most."""


@dataclass(frozen=True)
class AugmentingReader:
    """Reads numbers from 0 up as images: the originals, and turned and shifted copies of them.

    Attributes:
        source: reads the originals, whose items are 0 to originals - 1.
        originals: the number of originals.
    """

    source: PixelReader
    originals: int
    decodes = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """The (height, width, channels) of the originals."""
        return self.source.shape

    def name(self, item: Any) -> str:
        """Return a name such as mnist-augmented/00000042."""
        return f"mnist-augmented/{int(item):08d}"

    def read(self, items: Items) -> ReadResult:
        """Make the images of some numbers."""
        pixels = self.source.read(items % self.originals).pixels.copy()
        for i, (item, amounts) in enumerate(zip(items, uniform(items), strict=True)):
            if item >= self.originals:
                pixels[i, :, :, 0] = self._moved(pixels[i, :, :, 0], amounts)
        return ReadResult(pixels, np.arange(len(items)), [])

    def _moved(self, pixels: Pixels, amounts: Floats) -> Pixels:
        """Turn and shift an image, uint8 (h, w), by three amounts in [0, 1): angle, x and y."""
        height, width, _ = self.shape
        angle = math.radians(MOST_DEGREES) * (2 * amounts[0] - 1)
        dx, dy = MOST_PIXELS * (2 * amounts[1:] - 1)
        cos, sin, x, y = math.cos(angle), math.sin(angle), (width - 1) / 2, (height - 1) / 2
        inverse = (
            *(cos, sin, x - cos * (x + dx) - sin * (y + dy)),
            *(-sin, cos, y + sin * (x + dx) - cos * (y + dy)),
        )
        image = Image.fromarray(pixels).transform(
            (width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
        )
        return np.asarray(image)


def uniform(items: Items) -> Floats:
    """Return three numbers in [0, 1) per item, float64 (n, 3): SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z: Keys = (3 * items[:, None] + np.arange(1, 4)).astype(np.uint64)
    for shift, factor in ((0, 0x9E3779B97F4A7C15), (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ z >> np.uint64(shift) if shift else z) * np.uint64(factor)
    return z / 2.0**64


def augmented(originals: Catalogue, n: int) -> Catalogue:
    """Return a catalogue of n images made from the originals."""
    numbers = np.arange(n)
    reader = AugmentingReader(originals.reader, len(originals))
    return Catalogue(reader, numbers, originals.labels[numbers % len(originals)], originals.class_names)


def write_mnist(data_root: Path, n: int, destination: Path) -> None:
    """Write MNIST with n training images as IDX files, to be used with `--data-root destination`."""
    train = open_labelled("mnist", data_root, PixelFormat()).train
    folder = destination / "mnist"
    folder.mkdir(parents=True)
    for test_file in (data_root / "mnist").glob("t10k-*"):
        shutil.copy(test_file, folder)
    images = augmented(train, n)
    height, width, _ = images.shape
    with (folder / "train-images-idx3-ubyte").open("wb") as file:
        file.write(b"\0\0\x08\x03" + b"".join(length.to_bytes(4, "big") for length in (n, height, width)))
        for start in range(0, n, 10_000):
            file.write(images.reader.read(images.items[start : start + 10_000]).pixels.tobytes())
    labels = images.labels.astype(np.uint8).tobytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + n.to_bytes(4, "big") + labels)
