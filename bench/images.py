"""`spark-submit bench/images.py DEST --images 2000000`: any number of images, made from MNIST on the executors.

The result is an image table, whose training images are those of augmented.py and whose test images are MNIST's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyspark import SparkContext

from bench.augmented import augmented
from common.console import Console
from common.data.decode import PixelFormat
from common.data.sources import open_labelled
from common.data.storage import Storage
from common.data.table.table import Table
from common.data.table.writing import TableSettings
from common.run.flag_types import positive_integer
from common.run.flags import data_root_flag
from common.run.parser import Parser
from spark_jobs.engine.session import run_spark_job, spark_context
from spark_jobs.ingestion.listing import Listing
from spark_jobs.ingestion.table_update import Destination, TableUpdate


def make_images(context: SparkContext, destination: Destination, n: int, data_root: Path) -> Table:
    """Make a table of n training images and of MNIST's test images."""
    splits = open_labelled("mnist", data_root, PixelFormat())
    train = splits.train
    listing = Listing(splits._replace(train=augmented(train, n)))
    settings = TableSettings(train.shape, PixelFormat(), train.class_names, 0.2, f"{n} images made from MNIST")
    update = TableUpdate.open(destination, settings)
    written = [
        files
        for blocks, split in listing.blocks(context, settings, update.done)
        for files in update.write(blocks, split)
    ]
    return update.commit(written, listing.count(), listing.ignored).table


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, make the table and print how long that took."""
    parser = Parser(description="Make a table of any number of images from MNIST.")
    parser.add_argument("destination", metavar="DEST", help="the table: a path that all workers see")
    parser.add_argument("--images", metavar="N", type=positive_integer, default=2_000_000, help="training images")
    data_root_flag(parser)
    arguments = parser.parse_arguments(argv)
    destination = Destination.open(Storage.at(arguments.destination))
    console = Console()
    with spark_context("images", console) as context, console.phase("make"):
        table = make_images(context, destination, arguments.images, arguments.data_root)
    n, made_s = table.class_counts["train"].sum(), console.seconds["make"]
    print(f"{destination.storage}: {n:,} training images in {made_s:.0f} s")
    return 0


if __name__ == "__main__":
    run_spark_job(main)
