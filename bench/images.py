"""`spark-submit bench/images.py DEST --images 2000000`: any number of images, made from MNIST on the executors.

Image i is MNIST's training image i mod 60,000, from the second round on turned by up to 15° and shifted by up
to 2 pixels; how far, its number alone decides. They go into an image table as training images, beside MNIST's own
test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pyspark import SparkContext

from common.arrays import Floats, Items, Keys
from common.catalogue import Catalogue, PixelReader, Read
from common.console import Console, Parser, data_root_flag, positive_integer
from common.datasets import open_dataset
from common.decode import PixelFormat
from common.table.storage import Storage
from common.table.table import Table
from common.table.writing import Settings
from spark_jobs.ingesting import Ingest
from spark_jobs.session import run_spark_job, spark_context

MOST_DEGREES = 15
MOST_PIXELS = 2


@dataclass(frozen=True)
class AugmentingReader:
    """Reads numbers from 0 up, as images that another reader's are turned and shifted into.

    Attributes:
        source: reads the originals.
        originals: how many there are; their items are 0 to originals - 1.
    """

    source: PixelReader
    originals: int
    decodes = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """The originals'."""
        return self.source.shape

    def name(self, item: Any) -> str:
        """For example mnist-augmented/00000042."""
        return f"mnist-augmented/{int(item):08d}"

    def read(self, items: Items) -> Read:
        """Make these images."""
        pixels = self.source.read(items % self.originals).pixels.copy()
        height, width, _ = self.shape
        for i, (item, turn) in enumerate(zip(items, uniform(items), strict=True)):
            if item >= self.originals:
                angle = math.radians(MOST_DEGREES) * (2 * turn[0] - 1)
                dx, dy = MOST_PIXELS * (2 * turn[1:] - 1)
                cos, sin, x, y = math.cos(angle), math.sin(angle), (width - 1) / 2, (height - 1) / 2
                where = (
                    cos,
                    sin,
                    x - cos * (x + dx) - sin * (y + dy),
                    -sin,
                    cos,
                    y + sin * (x + dx) - cos * (y + dy),
                )
                turned = Image.fromarray(pixels[i, :, :, 0]).transform(
                    (width, height), Image.Transform.AFFINE, where, Image.Resampling.BILINEAR
                )
                pixels[i, :, :, 0] = np.asarray(turned)
        return Read(pixels, np.arange(len(items)), [])


def uniform(items: Items) -> Floats:
    """Three numbers in [0, 1) for each item, float64 (n, 3): SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z: Keys = (3 * items[:, None] + np.arange(1, 4)).astype(np.uint64)
    for shift, factor in ((0, 0x9E3779B97F4A7C15), (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ z >> np.uint64(shift) if shift else z) * np.uint64(factor)
    return z / 2.0**64


def make_images(context: SparkContext, storage: Storage, n: int, data_root: Any) -> Table:
    """A table of n training images and MNIST's test images."""
    train, test = open_dataset("mnist", data_root, PixelFormat())
    ingest = Ingest.open(
        storage, Settings(train.shape, PixelFormat(), train.class_names, 0.2, f"{n} images made from MNIST"), None
    )
    numbers = np.arange(n)
    augmented = Catalogue(
        AugmentingReader(train.reader, len(train)), numbers, train.labels[numbers % len(train)], train.class_names
    )
    written = ingest.write_catalogue(context, augmented, "train")
    if test is not None:
        written += ingest.write_catalogue(context, test, "test")
    return ingest.commit(written, [], n + (len(test) if test else 0)).table


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and make."""
    parser = Parser(description="Make a table of any number of images from MNIST.")
    parser.add_argument("destination", metavar="DEST", help="the table: a path that all workers see")
    parser.add_argument("--images", metavar="N", type=positive_integer, default=2_000_000, help="training images")
    data_root_flag(parser)
    arguments = parser.parse_arguments(argv)
    storage = Storage.at(arguments.destination)
    Ingest.check_destination(storage)
    console = Console()
    with spark_context("images", console) as context, console.phase("make"):
        table = make_images(context, storage, arguments.images, arguments.data_root)
    print(f"{storage}: {table.class_counts['train'].sum():,} training images in {console.seconds['make']:.0f} s")
    return 0


if __name__ == "__main__":
    run_spark_job(main)
