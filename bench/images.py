"""`spark-submit bench/images.py DEST --images 2000000`: any number of images, made from MNIST on the executors.

They are those of augmented.py, in an image table, as training images beside MNIST's own test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark import SparkContext

from bench.augmented import augmented
from common.console import Console
from common.data.decode import PixelFormat
from common.data.sources import open_dataset
from common.data.storage import Storage
from common.data.table.table import Table
from common.data.table.writing import Settings
from common.run.flags import Parser, data_root_flag, positive_integer
from spark_jobs.engine.session import run_spark_job, spark_context
from spark_jobs.ingestion.ingestion import Ingest


def make_images(context: SparkContext, storage: Storage, n: int, data_root: Any) -> Table:
    """A table of n training images and MNIST's test images."""
    train, test = open_dataset("mnist", data_root, PixelFormat())
    ingest = Ingest.open(
        storage, Settings(train.shape, PixelFormat(), train.class_names, 0.2, f"{n} images made from MNIST"), None
    )
    written = ingest.write_catalogue(context, augmented(train, n), "train")
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
