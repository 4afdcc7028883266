"""A fitted model's predictions for any number of images: one row each, scored where they are read.

An image that cannot be used is a row too, with the reason.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyspark import RDD, SparkContext

from common.arrays import Labels
from common.console import Console
from common.data.catalogue import Skipped
from common.data.images import Block, CatalogueImages, Images
from common.data.sources import SPECS, open_dataset, open_table
from common.data.splits import FoldRule
from common.data.storage import PARTIAL, Storage
from common.data.table.reading import TableImages
from common.data.table.table import SPLITS, Table
from common.errors import InputError
from common.predict.predictions import (
    MOST_UNSURE,
    PREDICTIONS,
    RowFormat,
    Summary,
    predictions_csv,
    write_predictions,
)
from common.provenance import Engine
from common.report.prediction import write_report
from common.ridge.model import RidgeModel
from common.run.flags import Parser, data_root_flag, out_flag, positive_integer, quiet_flag
from common.run.folder import RunFolder
from spark_jobs.engine.blocks import gather, image_parts, read_parts
from spark_jobs.engine.session import engine, partitions_flag, run_spark_job, spark_context
from spark_jobs.ingestion.globs import Glob, is_glob

NOT_HELD_OUT = FoldRule(None, 0)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = Parser(description="Predict the classes of images with a model that a ridge job has fitted.")
    parser.add_argument("--model", metavar="RUN", type=Path, required=True, help="the run folder of a ridge job")
    parser.add_argument(
        "--data", metavar="SPEC", required=True, help=f"{SPECS}, or a glob such as 's3://bucket/new/*.jpg'"
    )
    data_root_flag(parser)
    parser.add_argument("--split", choices=("all", *SPLITS), default="all", help="of sources that have splits")
    out = parser.add_argument_group("output")
    out_flag(out)
    out.add_argument("--format", choices=("parquet", "csv"), default="parquet", help="of the predictions")
    out.add_argument("--top", metavar="K", type=positive_integer, default=1, help="so many classes, best first")
    out.add_argument("--scores", action="store_true", help="the score of each predicted class")
    partitions_flag(parser)
    quiet_flag(out)
    return parser.parse_arguments(argv)


class Found(NamedTuple):
    """Images to predict.

    Attributes:
        blocks: with names.
        known: int64 (n_labels,), the model's class for each of their labels, -1 where it has none.
        unread: images that no executor will see, because they cannot be used.
    """

    blocks: RDD[Block]
    known: Labels
    unread: list[Skipped]


def find(context: SparkContext, arguments: argparse.Namespace, model: RidgeModel) -> Found:
    """The images that --data names.

    Raises:
        InputError: there are none, or they are of another shape than the model's.
    """
    if is_glob(arguments.data):
        glob = Glob.open(context, arguments.data)
        blocks = glob.blocks(model.pixel_format, model.shape, model.class_names, np.empty(0, np.uint64))
        return Found(blocks, np.arange(len(model.class_names)), glob.unread())
    table = open_table(arguments.data)
    if table is not None:
        images: list[Images] = [_of_table(table, arguments, model)]
    else:
        splits = zip(SPLITS, open_dataset(arguments.data, arguments.data_root, model.pixel_format), strict=True)
        images = [CatalogueImages(part) for name, part in splits if part and arguments.split in ("all", name)]
    if not images or not sum(map(len, images)):
        raise InputError(f"--data {arguments.data}: has no {arguments.split} images; use --split all")
    if images[0].shape != model.shape:
        shapes = f"images of {_shape(images[0].shape)}, and the model is for {_shape(model.shape)}"
        raise InputError(f"--data {arguments.data}: {shapes}")
    position = {name: label for label, name in enumerate(model.class_names)}
    known = np.array([position.get(name, -1) for name in images[0].class_names], np.int64)
    parts = [part for split in images for part in image_parts(context, split, arguments.partitions)]
    return Found(read_parts(context, parts, names=True), known, [])


def _of_table(table: Table, arguments: argparse.Namespace, model: RidgeModel) -> TableImages:
    if table.shape == model.shape and table.pixel_format != model.pixel_format:
        forms = f"its images are {table.pixel_format}, and the model's were {model.pixel_format}"
        raise InputError(f"--data {arguments.data}: {forms}")
    return TableImages(table, NOT_HELD_OUT, None if arguments.split == "all" else arguments.split)


def _shape(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))


def remove_partial(storage: Storage) -> None:
    """Remove what tasks left behind that died."""
    for name in storage.names(PREDICTIONS):
        if name.endswith(PARTIAL):
            storage.delete(name)


def without_images(unread: list[Skipped], model: RidgeModel) -> Block:
    """A block of nothing but what cannot be used."""
    none = np.empty(0, np.int64)
    return Block(np.empty((0, *model.shape), np.uint8), none, none.astype(np.int16), [], unread)


def _described(
    arguments: argparse.Namespace, model: RidgeModel, summary: Summary, engine: Engine, console: Console
) -> dict[str, Any]:
    """What metrics.json says besides of the predictions."""
    return {
        "job": "predict",
        "engine": engine.name,
        "model": str(arguments.model),
        "data": arguments.data,
        "shape": list(model.shape),
        "images_per_second": summary.n / max(console.seconds["predict"], 1e-9),
        "seconds": console.seconds | {"total": console.total_seconds()},
        "workers": engine.workers,
        "threads": engine.threads,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, score and write on the executors, write the run folder."""
    arguments = parse(argv)
    console = Console(arguments.quiet)
    model = RidgeModel.load(arguments.model)
    form = RowFormat(min(arguments.top, len(model.class_names)), arguments.scores)
    folder = RunFolder(arguments.out, "predict")
    with spark_context("predict", console) as context, folder.written() as staging:
        with console.phase("list"):
            blocks, known, unread = find(context, arguments, model)
        storage = folder.shared(staging)
        with console.phase("predict"):
            parts = blocks.mapPartitionsWithIndex(
                lambda part, own: [write_predictions(storage, part, model, form, own, known)]
            )
            summary = gather(parts, add, MOST_UNSURE * math.prod(model.shape))
            n_files = parts.getNumPartitions()
            if unread:
                summary += write_predictions(storage, n_files, model, form, [without_images(unread, model)], known)
                n_files += 1
            remove_partial(storage)
        if len(storage.names(PREDICTIONS)) < n_files:
            raise InputError(
                f"--out {folder}: what workers wrote does not arrive here; name a folder that all see"
            )
        if arguments.format == "csv":
            with console.phase("csv"):
                predictions_csv(storage, summary.n_unusable)
        described = _described(arguments, model, summary, engine(context), console)
        write_report(staging, summary, model.class_names, described)
    what = f"{PREDICTIONS}.csv" if arguments.format == "csv" else f"{PREDICTIONS}/"
    console.say(f"{folder.file(what)}: {summary.n:,} rows, {summary.n_unusable:,} of them errors")
    if summary.confusion.n:
        console.say(
            f"{summary.confusion.accuracy():.4f} of {summary.confusion.n:,} images whose class is known are right"
        )
    print(f"report: {folder.file('report.html')}")
    return 0


if __name__ == "__main__":
    run_spark_job(main)
